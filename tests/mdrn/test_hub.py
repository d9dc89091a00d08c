"""A network goes to the Hub and comes back as the same one-file checkpoint; nothing here uses a network connection."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from small_networks import header_for, small_network

from mdrn import checkpoint, hub
from mdrn.checkpoint import CheckpointError
from mdrn.hub import Score
from mdrn.model import MDRN


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
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    return FakeApi.calls


def same(a: MDRN, b: MDRN) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name].half(), theirs[name].half()) for name in ours)


def with_header() -> MDRN:
    network = small_network()
    network.header = header_for(network)
    return network


def test_a_folder_holds_the_checkpoint_itself(tmp_path):
    network = with_header()
    assert hub.save(network, tmp_path / "saved") == tmp_path / "saved"
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["README.md", "model.safetensors"]
    loaded = hub.load(tmp_path / "saved")
    assert same(loaded, network) and loaded.header.id == network.header.id and not loaded.training
    assert checkpoint.load(tmp_path / "saved" / hub.WEIGHTS_NAME).header == loaded.header


def test_a_repository_is_fetched_by_its_one_file(tmp_path, monkeypatch):
    network = with_header()
    hub.save(network, tmp_path / "remote")
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options["revision"]))
        return shutil.copy(tmp_path / "remote" / filename, tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert same(hub.load("user/name", revision="v1"), network)
    assert asked == [("user/name", "model.safetensors", "v1")]


def test_pushing_uploads_weights_and_card_with_the_numbers(tmp_path, uploads):
    network = with_header()
    scores = [Score("BSD68", 25.0, "awgn", 68, 29.0961, 0.8262)]
    assert hub.push(network, "user/name", scores, private=True).endswith("/user/name/commit/1")
    created, pushed = uploads
    assert created["create"] == "user/name" and created["private"] is True
    assert pushed["repo_id"] == "user/name" and sorted(pushed["files"]) == ["README.md", "model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(pushed["files"]["model.safetensors"])
    assert same(hub.load(tmp_path), network)
    text = pushed["files"]["README.md"].decode()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "mdrn", "image-to-image")
    assert "image-denoising" in data.tags and data.model_name == network.header.id
    (told,) = [r for r in data.eval_results if r.dataset_type == "bsd68" and r.metric_type == "psnr"]
    assert told.metric_value == 29.096
    assert "| BSD68 | 68 | 25 | awgn | 29.10 | 0.8262 |" in text and 'hub.load("user/name")' in text


def test_what_cannot_be_saved_or_loaded_gets_one_line(tmp_path):
    with pytest.raises(ValueError, match="header"):
        hub.save(small_network(), tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="model.safetensors"):
        hub.load(tmp_path / "empty")


def test_a_card_without_scores_says_so():
    assert "None were given" in str(hub.model_card(with_header()))


def test_a_card_says_which_noise_the_network_knows():
    network = with_header()
    assert "white Gaussian noise; the noise of photographs is smoother" in str(hub.model_card(network))
    network.header = header_for(network, recipe={"version": "3", "camera_share": 0.6})
    assert "the noise of photographs and for white Gaussian noise" in str(hub.model_card(network))
