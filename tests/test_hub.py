"""A network goes to the Hub and comes back as the same one-file checkpoint; nothing here uses a network connection."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import header_for, small_network
from huggingface_hub import ModelCard

import mdrn
from benchmark import publish, results
from mdrn import hub
from mdrn.checkpoint import CheckpointError, read_header
from mdrn.hub import Score
from mdrn.model import MDRN

RESULTS = Path(__file__).parent.parent / "results"
RELEASED = "mdrn_tiny.plain_n25_s0"


class FakeApi:
    """Stands in for `HfApi`: keeps what would be uploaded."""

    calls: list[dict] = []

    def __init__(self, *args, **kwargs):
        pass

    def create_repo(self, repo_id, **options):
        FakeApi.calls.append({"create": repo_id, **options})
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, folder_path, **options):
        files = {
            p.relative_to(folder_path).as_posix(): p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()
        }
        FakeApi.calls.append({"files": files, **options})
        return f"https://huggingface.co/{options['repo_id']}/commit/1"


@pytest.fixture
def uploads(monkeypatch):
    FakeApi.calls = []
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    return FakeApi.calls


def same(a: MDRN, b: MDRN) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_folder_holds_the_checkpoint_itself(tmp_path):
    network = mdrn.load(RELEASED)
    network.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = MDRN.from_pretrained(tmp_path / "saved")
    assert same(loaded, network) and loaded.header == network.header and not loaded.training
    assert mdrn.load(tmp_path / "saved" / hub.WEIGHTS_NAME).header == network.header


def test_the_header_decides_not_the_config_beside_it(tmp_path):
    network = mdrn.load(RELEASED)
    network.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"widths": [512] * 5, "stages": 16}))
    assert MDRN.from_pretrained(tmp_path).config == network.config
    (tmp_path / "config.json").unlink()
    assert MDRN.from_pretrained(tmp_path).config == network.config


def test_a_repository_is_fetched_by_its_one_file(tmp_path, monkeypatch):
    network = small_network()
    network.header = header_for(network)
    network.save_pretrained(tmp_path / "remote")
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options["revision"]))
        return shutil.copy(tmp_path / "remote" / filename, tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda repo_id, **o: download(repo_id, **o))
    assert same(MDRN.from_pretrained("user/name", revision="v1"), network)
    assert asked[-1] == ("user/name", "model.safetensors", "v1")


def test_pushing_uploads_weights_config_and_card_with_the_rows_numbers(tmp_path, uploads, capsys):
    assert publish.main([RELEASED, "--repo", "user/name", "--private", "--results", str(RESULTS)]) == 0
    assert "https://huggingface.co/user/name/commit/1" in capsys.readouterr().out
    created, pushed = uploads
    assert created["create"] == "user/name" and created["private"] is True
    assert pushed["repo_id"] == "user/name" and RELEASED in pushed["commit_message"]
    assert sorted(pushed["files"]) == ["README.md", "config.json", "model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(pushed["files"]["model.safetensors"])
    returned = MDRN.from_pretrained(tmp_path)
    assert same(returned, mdrn.load(RELEASED)) and returned.header == read_header(RELEASED)

    text = pushed["files"]["README.md"].decode()
    card = ModelCard(text)
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "apache-2.0",
        "mdrn",
        "image-to-image",
    )
    assert "image-denoising" in card.data.tags and card.data.model_name == RELEASED
    rows = results.load(RESULTS).final
    rows = rows[(rows.plan == "released") & (rows.method == RELEASED) & (rows["set"] == "BSD68")]
    rows = rows[rows.noise_seed == 0]
    expected = rows[(rows.noise_level == 25) & (rows.protocol == "awgn")].psnr.mean()
    (told,) = [r for r in card.data.eval_results if r.dataset_type == "bsd68" and r.metric_type == "psnr"]
    assert told.metric_value == pytest.approx(expected, abs=5e-4)
    assert f"| BSD68 | 68 | 25 | awgn | {expected:.2f} |" in text and 'from_pretrained("user/name")' in text


@pytest.mark.parametrize("name", [RELEASED, "mdrn.plain_n50_s0"])  # plans trained others of these ids
def test_a_dry_run_shows_it_and_uploads_nothing(name, uploads, capsys):
    assert publish.main([name, "--repo", "user/name", "--dry-run", "--results", str(RESULTS)]) == 0
    said = capsys.readouterr().out
    assert uploads == [] and "model.safetensors: " in said and "model-index:" in said and "| Set12 | 12 |" in said


def test_numbers_of_other_weights_are_not_published(tmp_path, weights_file, uploads, capsys):
    for arguments in ([str(weights_file)], ["no_such_id"]):
        with pytest.raises(SystemExit) as stop:
            publish.main([*arguments, "--repo", "user/name", "--results", str(RESULTS)])
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    found = results.load(RESULTS)
    changed = read_header(RELEASED)
    object.__setattr__(changed, "sha256", "0" * 64)
    with pytest.raises(ValueError, match="other weights"):
        publish.scores(found, changed)
    assert uploads == []


def test_what_cannot_be_saved_or_loaded_gets_one_line(tmp_path):
    with pytest.raises(ValueError, match="header"):
        small_network().save_pretrained(tmp_path / "fresh")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="model.safetensors"):
        MDRN.from_pretrained(tmp_path / "empty")


def test_a_card_without_scores_says_so():
    network = small_network()
    network.header = header_for(network)
    assert "None were given" in str(network.generate_model_card())
    with_one = str(network.generate_model_card([Score("Set12", 25.0, "awgn", 12, 30.0, 0.85)]))
    assert "| Set12 | 12 | 25 | awgn | 30.00 | 0.8500 |" in with_one
