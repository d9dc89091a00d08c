import copy
import dataclasses

import pytest
import torch
from safetensors import safe_open
from small_networks import SMALL_STAGE, header_for, small_network

from mdrn import checkpoint, train
from mdrn.denoiser import count_parameters
from mdrn.distill import LOSSES, DistillConfig, Distilled, Guide, Supervised, less_noisy
from mdrn.model import ModelConfig
from mdrn.teacher import TEACHERS, FusedBottleneck, Teacher, TeacherConfig

SMALL_TEACHER = TeacherConfig(widths=(8, 8, 16), down=(1, 1, 1), up=(1, 1), entry=2)
SMALL = ModelConfig(widths=(8, 8, 16), stages=(SMALL_STAGE,) * 2, entry=2)
MATCHES = (("stage1.scale3", "scale3"), ("stage2.scale1", "scale1"))
WIDTHS = {"stage1.scale3": (16, 16), "stage2.scale1": (8, 8)}


def small_teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        teacher = SMALL_TEACHER.build().eval()
    with torch.no_grad():
        teacher.tail.weight.mul_(0.3)
    return teacher


def batch(size: int = 32):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, size, size, generator=generator)
    sigma = torch.tensor([0.05, 0.1, 0.2, 0.3])
    return clean + sigma.view(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator), clean, sigma


def distilled(strategy="hmds_c", teacher=None, **changes) -> Distilled:
    config = DistillConfig(**({"matches": MATCHES} | changes))
    guide = Guide(teacher or small_teacher())
    criterion = Distilled(Supervised(), config.views(strategy), config, guide, WIDTHS)
    criterion.begin_step(torch.Generator().manual_seed(0), 0.0, {})
    return criterion


@pytest.mark.parametrize("size", [(37, 31), (1, 1), (16, 16)])
def test_teacher_obeys_the_contract(size):
    teacher = small_teacher()
    noisy = torch.rand(2, 1, *size)
    with torch.no_grad():
        restored, features = teacher.forward_features(noisy, 0.1)
        assert restored.shape == noisy.shape and torch.equal(restored, teacher(noisy, torch.tensor([0.1, 0.1])))
        assert not torch.equal(restored, teacher(noisy, 0.3))
    assert set(features) == {"scale1", "scale2", "scale3"} and features["scale3"].shape[1] == 16
    with pytest.raises(ValueError, match="expected"):
        teacher(torch.rand(1, 3, 8, 8), 0.1)


def test_teacher_is_no_linear_filter():
    """A layer without its activation trains, and restores next to nothing."""
    first, second = torch.rand(2, 1, 1, 32, 32)
    zero, teacher = torch.zeros_like(first), small_teacher()
    with torch.no_grad():
        bend = teacher(first + second, 0.1) + teacher(zero, 0.1) - teacher(first, 0.1) - teacher(second, 0.1)
        assert bend.abs().max() > 1e-4
        for block in (m for m in teacher.modules() if isinstance(m, FusedBottleneck)):
            a, b = torch.randn(2, 1, block.expand.in_channels, 8, 8)
            assert (block(a + b) + block(torch.zeros_like(a)) - block(a) - block(b)).abs().max() > 1e-4


def test_teacher_preset_has_the_size_it_may_have():
    assert 2_000_000 <= count_parameters(TEACHERS["teacher"].build()) <= 3_000_000


@pytest.mark.parametrize("up", [(2, 2), (2, 0), (1, 3)])
@pytest.mark.parametrize("entry", [1, 2])
def test_receptive_field_of_the_teacher(up, entry):
    teacher = TeacherConfig(widths=(4, 4, 4), down=(0, 2, 1), up=up, entry=entry).build().double().eval()
    radius, stride = teacher.receptive_field_radius, teacher.stride
    halo = -(-radius // stride) * stride
    size = 2 * halo + 3 * stride
    noisy = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    inner = slice(halo, halo + stride)
    teacher(noisy, 0.1)[..., inner, inner].sum().backward()
    reached = noisy.grad.abs().amax(dim=(0, 1)).nonzero()
    assert radius - stride < halo - reached.min() <= radius


def test_teacher_configuration_is_held_to_its_limits():
    for field, value in (
        ("widths", (8,)),
        ("down", (1, 1)),
        ("up", (1,)),
        ("up", (1, 1, -1)),
        ("channels", 2),
        ("expansion", 0),
        ("entry", 3),
    ):
        with pytest.raises(ValueError, match=field):
            TeacherConfig(**{field: value})


def test_output_term_is_exactly_0_for_a_copy_of_the_student():
    student = small_network()
    noisy, clean, sigma = batch()
    terms = distilled(teacher=copy.deepcopy(student))(student, noisy, clean, sigma)
    assert terms["hmds_c.output"] == 0
    other = distilled()(student, noisy, clean, sigma)
    assert other["hmds_c.output"] > 0


def test_without_weights_it_is_the_plain_criterion():
    student = small_network()
    noisy, clean, sigma = batch()
    plain = Supervised()(student, noisy, clean, sigma)
    terms = distilled("hmds", output_weight=0.0)(student, noisy, clean, sigma)
    assert terms["loss"] == plain["loss"] and terms["stages"] == plain["stages"]
    faded = distilled("hmds", final_weight=0.0)
    faded.begin_step(torch.Generator(), 1.0, {})
    assert faded(student, noisy, clean, sigma)["loss"] == plain["loss"]


def test_terms_add_up():
    student = small_network()
    noisy, clean, sigma = batch()
    criterion = distilled("hmds", output_weight=0.6, feature_weight=0.2, final_weight=0.5)
    criterion.begin_step(torch.Generator().manual_seed(0), 0.5, {})
    terms = criterion(student, noisy, clean, sigma)
    output = (terms["hmds_c.output"] + terms["hmds_n.output"]) / 2
    features = (terms["hmds_c.features"] + terms["hmds_n.features"]) / 2
    weight = 0.75
    expected = (
        (1 - weight * 0.6) * terms["restored"] + 0.1 * terms["stages"] + weight * 0.6 * output + weight * 0.2 * features
    )
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert features > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_distance_to_the_teacher_is_the_distance_to_the_clean_image(loss):
    student, teacher = small_network(), small_teacher()
    noisy, clean, sigma = batch()
    config = DistillConfig(matches=MATCHES)
    criterion = Distilled(Supervised(loss), config.views("hmds_c"), config, Guide(teacher))
    criterion.begin_step(torch.Generator(), 0.5, {})
    with torch.no_grad():
        expected = Supervised(loss).distance(student(noisy, sigma), teacher(noisy, sigma), sigma)
        output = criterion(student, noisy, clean, sigma)["hmds_c.output"]
    assert output.item() == pytest.approx(expected.item(), rel=1e-5)


def test_stored_answers_spare_the_teacher():
    student, teacher = small_network(), small_teacher()
    noisy, clean, sigma = batch()
    config = DistillConfig()
    with torch.no_grad():
        stored = {
            view.key: Guide(teacher).answer(view, noisy, clean, sigma, None)[0] for view in config.views("hmds_c")
        }
        asked = distilled("hmds_c", teacher)(student, noisy, clean, sigma)
        criterion = Distilled(Supervised(), config.views("hmds_c"), config)
        criterion.begin_step(torch.Generator(), 0.0, stored)
        assert criterion(student, noisy, clean, sigma)["loss"] == asked["loss"]


def test_nested_noise_has_the_right_variances_and_correlation():
    shape = (2, 1, 400, 400)
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(shape, generator=generator)
    sigma = torch.tensor([0.1, 0.3])
    noise = sigma.view(-1, 1, 1, 1) * torch.randn(shape, generator=generator)
    for fraction in (0.0, 0.3, 0.5, 1.0):
        low = less_noisy(clean + noise, clean, sigma, fraction, generator) - clean
        rest = noise - low
        for i, s in enumerate(sigma.tolist()):
            assert low[i].std().item() == pytest.approx(fraction * s, rel=0.01, abs=1e-6)
            assert rest[i].std().item() == pytest.approx(s * (1 - fraction**2) ** 0.5, rel=0.01, abs=1e-6)
            if 0 < fraction < 1:
                correlation = torch.corrcoef(torch.stack([low[i].flatten(), rest[i].flatten()]))[0, 1]
                assert abs(correlation.item()) < 0.01


def test_noise_strategy_shows_the_teacher_less_noise():
    seen = []

    class Recorder(Teacher):
        def forward_features(self, noisy, sigma):
            seen.append((noisy, sigma))
            return super().forward_features(noisy, sigma)

    noisy, clean, sigma = batch(64)
    for nested in (True, False):
        distilled("hmds_n", Recorder(SMALL_TEACHER), teacher_level=0.5, nested=nested)(
            small_network(), noisy, clean, sigma
        )
    for shown, shown_sigma in seen:
        assert torch.allclose(shown_sigma, sigma / 2)
        assert torch.allclose((shown - clean).std(dim=(1, 2, 3)), sigma / 2, rtol=0.05)
    assert torch.allclose(seen[1][0] - clean, 0.5 * (noisy - clean), atol=1e-6)
    assert not torch.allclose(seen[0][0], seen[1][0])


def test_gradients_reach_student_and_projections_alone_and_are_finite_at_sigma_0():
    student, teacher = small_network(), small_teacher()
    noisy, clean, _ = batch()
    criterion = distilled("hmds", teacher, feature_weight=0.1)
    criterion(student, noisy, clean, torch.zeros(4))["loss"].backward()
    # the last stage's deepest decoder feeds every term; no parameter is left out
    for parameter in [*student.parameters(), *criterion.projections.parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_no_part_of_the_criterion():
    criterion = distilled(feature_weight=0.1)
    assert all(name.startswith("projections.") for name in criterion.state_dict())
    assert len(criterion.state_dict()) == 4
    assert not distilled().state_dict()
    assert criterion.double().guide.teacher.head.weight.dtype == torch.float64  # but it follows to a device


@pytest.fixture
def teacher_file(tmp_path):
    path = tmp_path / "teacher.safetensors"
    header = header_for(small_network(), id="teacher.plain_n0-75_s0", model=SMALL_TEACHER, architecture="teacher")
    checkpoint.write_weights(path, small_teacher(), header)
    return path


def config(teacher_file, **changes):
    options = {"preset": "small", "model": SMALL, "steps": 6, "batch_size": 2, "noise_level": (25.0, 25.0)}
    options |= {"large_patches": 0.0, "map_share": 0.0}
    options |= {"patch_size": 16, "data": ("samples",), "strategy": "hmds", "teacher": str(teacher_file)}
    distill = DistillConfig(feature_weight=0.1, matches=MATCHES)
    return train.TrainConfig(**(options | {"distill": distill} | changes))


def test_training_leaves_the_teacher_and_the_students_file_clean(tmp_path, teacher_file, monkeypatch):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    before = teacher_file.read_bytes()
    criteria = []
    build = train.build_criterion
    monkeypatch.setattr(train, "build_criterion", lambda *a: criteria.append(build(*a)) or criteria[-1])
    weights = train.fit(config(teacher_file), tmp_path / "out", validations=0, quiet=True)
    (criterion,) = criteria
    halves = {name: tensor.half() for name, tensor in criterion.guide.teacher.state_dict().items()}
    assert checkpoint.tensors_sha256(halves) == checkpoint.read_header(teacher_file).sha256
    assert teacher_file.read_bytes() == before
    assert weights.name == "small.hmds_n25_s0.safetensors"
    assert checkpoint.load(weights).header.strategy == "hmds"
    with safe_open(weights, framework="pt") as file:
        assert set(file.keys()) == set(small_network().state_dict())
    again = train.fit(config(teacher_file), tmp_path / "again", validations=0, quiet=True)
    assert again.read_bytes() == weights.read_bytes()
    plain = train.fit(config(None, strategy="plain", teacher=None), tmp_path / "plain", validations=0, quiet=True)
    assert checkpoint.read_header(plain).sha256 != checkpoint.read_header(weights).sha256


def test_a_student_is_matched_at_the_stages_it_has(teacher_file):
    pairs = (("stage1.scale3", "scale3"), ("stage2.scale3", "scale3"))
    both = DistillConfig(feature_weight=0.1, matches=pairs)
    for stages in (1, 2):
        run = config(teacher_file, model=dataclasses.replace(SMALL, stages=SMALL.stages[:stages]), distill=both)
        criterion = train.build_criterion(run, train.load_guide(run))
        assert criterion.matches == list(pairs[:stages])
        assert {len(projections) for projections in criterion.projections.values()} == {stages}
    second = DistillConfig(feature_weight=0.1, matches=pairs[1:])
    run = config(teacher_file, model=dataclasses.replace(SMALL, stages=SMALL.stages[:1]), distill=second)
    with pytest.raises(ValueError, match="one of the features"):
        train.build_criterion(run, train.load_guide(run))


@pytest.mark.parametrize("pair", [("head", "scale3"), ("stage1.scale3", "scale9"), ("stageX.scale3", "scale3")])
def test_a_feature_that_does_not_exist_is_named(teacher_file, pair):
    distill = DistillConfig(feature_weight=0.1, matches=(pair,))
    with pytest.raises(ValueError, match=r"matches: expected .*, got '"):
        train.build_criterion(config(teacher_file, distill=distill), Guide(small_teacher()))


def test_plain_and_distilled_runs_share_weights_and_batches(teacher_file):
    plain = config(None, strategy="plain", teacher=None)
    ours = config(teacher_file)
    first, second = train.build_model(plain), train.build_model(ours)
    assert checkpoint.tensors_sha256(first.state_dict()) == checkpoint.tensors_sha256(second.state_dict())


def test_runs_share_the_teachers_stored_answers(tmp_path, teacher_file, monkeypatch):
    monkeypatch.delenv("MDRN_DATA", raising=False)
    monkeypatch.setattr(train, "POOL_SIZE", 32)
    passes, forward = [], Teacher.forward_features
    monkeypatch.setattr(Teacher, "forward_features", lambda *a: passes.append(1) or forward(*a))
    options = {"pool": 32, "distill": DistillConfig(), "noise_level": (0.0, 75.0), "map_share": 0.3}
    for strategy, seed, expected in (("hmds", 0, 4), ("hmds", 1, 4), ("hmds_c", 0, 4), ("hmds_n", 0, 4)):
        run = config(teacher_file, strategy=strategy, seed=seed, **options)
        weights = train.fit(run, tmp_path / strategy, pools=tmp_path / "pools", validations=0, quiet=True)
        assert len(passes) == expected and checkpoint.load(weights).header.strategy == strategy
    run = config(None, strategy="plain", teacher=None, **options)
    train.fit(run, tmp_path / "plain", pools=tmp_path / "pools", validations=0, quiet=True)
    assert len(passes) == 4 and len(list((tmp_path / "pools").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"strategy": "other"}, "strategy"),
        ({"strategy": "plain"}, "teacher"),
        ({"teacher": None}, "teacher"),
    ],
)
def test_what_does_not_go_together_is_refused(teacher_file, changes, word):
    with pytest.raises(ValueError, match=word):
        config(teacher_file, **changes)


def test_a_teacher_that_does_not_fit_is_refused(tmp_path, teacher_file):
    header = checkpoint.read_header(teacher_file)
    teacher = checkpoint.load(teacher_file)
    narrow = {**vars(header), "noise_level": (0.0, 20.0)}
    checkpoint.write_weights(tmp_path / "narrow.safetensors", teacher, checkpoint.Header(**narrow))
    with pytest.raises(ValueError, match="levels"):
        train.load_guide(config(tmp_path / "narrow.safetensors"))
    with pytest.raises(ValueError, match="channels"):
        train.load_guide(config(teacher_file, model=dataclasses.replace(SMALL, channels=3)))
    for field, value in (("output_weight", 2), ("teacher_level", -1), ("feature_weight", -1), ("final_weight", 2)):
        with pytest.raises(ValueError, match=field):
            DistillConfig(**{field: value})
