"""The Space: what is uploaded, and that its description fits what was tested."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from packaging.requirements import Requirement
from packaging.version import Version

from demo import space

ROOT = Path(__file__).parents[2]


def front_matter():
    _, head, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


def requirements():
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    return {each.name: each for each in map(Requirement, filter(None, lines))}


def test_front_matter_fits_requirements_and_what_is_tested():
    head = front_matter()
    assert head["sdk"] == "gradio" and (ROOT / head["app_file"]).is_file()
    assert requirements()["gradio"].specifier.contains(head["sdk_version"])
    installed = importlib.metadata.version("gradio")
    assert Version(head["sdk_version"]).major == Version(installed).major, "try the demo with it, then edit README.md"
    assert Version(head["sdk_version"]) <= Version(installed)


def test_front_matter_says_the_rest_and_invents_no_repository():
    head = front_matter()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={head['python_version']}"
    assert head["license"] == project["license"].lower()
    assert len(head["short_description"]) <= 60 and "image-denoising" in head["tags"]
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {head["colorFrom"], head["colorTo"]} <= colours
    assert not {"models", "datasets", "preload_from_hub", "hf_oauth"} & set(head)


class FakeApi:
    """Stands in for `HfApi` and notes what it is asked for."""

    def __init__(self, old):
        self.old, self.asked, self.operations = old, {}, []

    def create_repo(self, repo, **options):
        self.asked = {"repo": repo, **options}
        return f"https://huggingface.co/spaces/{repo}"

    def list_repo_files(self, repo, repo_type):
        assert repo == self.asked["repo"] and repo_type == "space"
        return self.old

    def create_commit(self, repo, operations, commit_message, repo_type):
        assert repo == self.asked["repo"] and repo_type == "space" and commit_message
        self.operations = operations


def test_upload_is_one_commit_of_what_the_page_needs():
    api = FakeApi([".gitattributes", "app.py", "mdrn/weights/old.safetensors"])
    assert space.upload("me/denoiser", api, private=True) == "https://huggingface.co/spaces/me/denoiser"
    assert api.asked == {
        "repo": "me/denoiser",
        "repo_type": "space",
        "space_sdk": "gradio",
        "private": True,
        "exist_ok": True,
    }
    added = {each.path_in_repo for each in api.operations if isinstance(each, CommitOperationAdd)}
    deleted = {each.path_in_repo for each in api.operations if isinstance(each, CommitOperationDelete)}
    assert deleted == {"mdrn/weights/old.safetensors"}
    assert {"app.py", "README.md", "requirements.txt", "demo/about.md", "demo/ui.py", "mdrn/model.py"} <= added
    weights = {f"mdrn/weights/{path.name}" for path in (ROOT / "mdrn" / "weights").glob("*.safetensors")}
    assert weights and weights <= added
    assert not [
        path for path in added if path.startswith(("tests/", "benchmark/", "runs/", ".")) or "__pycache__" in path
    ]


def test_the_space_gets_the_tested_requirements_with_wheels_for_its_hardware():
    text = space.contents()["requirements.txt"].decode()
    assert text == space.CPU_WHEELS + (ROOT / "requirements.txt").read_text()


def test_dry_run_needs_no_network_and_lists_every_file(capsys, monkeypatch):
    monkeypatch.setattr(space, "HfApi", None)
    assert space.main(["me/denoiser", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "me/denoiser" in out and all(path in out for path in space.contents())
    total = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in space.contents().values())
    assert f"{total:,}" in out and total < 100e6


@pytest.mark.parametrize("repo", ["denoiser", "a b/c", "a/b/c"])
def test_a_wrong_name_is_one_line(repo, capsys):
    assert space.main([repo, "--dry-run"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_refusal_of_the_hub_is_one_line(capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("403 Forbidden: you must log in\nsecond line")

    monkeypatch.setattr(FakeApi, "create_repo", refuse)
    monkeypatch.setattr(space, "HfApi", lambda: FakeApi([]))
    assert space.main(["me/denoiser"]) == 2
    assert capsys.readouterr().err == "python -m demo.space: me/denoiser: 403 Forbidden: you must log in\n"


def test_a_checkout_without_a_part_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="app.py: expected at least one file"):
        space.contents(tmp_path)


@pytest.mark.slow
def test_the_page_needs_nothing_that_is_not_uploaded(tmp_path):
    """Everything the page imports or reads must be there: it is built from the uploaded files alone."""
    for path, source in space.contents().items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "from demo.ui import build; import demo; print(demo.__file__); build()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
