"""The Space: what is uploaded, and that its description fits what was tested."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from demo import space

ROOT = Path(__file__).parents[2]
USE = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # cannot be imported
import demo
from demo import comparison, service
from demo.ui import build
build()
service.denoise(service.Asked("demo/examples/coffee_camera.png"), Path("job"))
comparison.compare(comparison.photographs()["camera"], 25, 0, ["mdrn", "wavelet", "non_local_means", "total_variation"])
print(demo.__file__, *{name.split(".")[0] for name in sys.modules})
"""


def requirements(path):
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return {each.name: each for each in map(Requirement, (x for x in lines if x and not x.startswith("-")))}


def test_the_space_is_described_as_what_was_tested():
    _, head, body = space.contents()["README.md"].read_text(encoding="utf-8").split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["sdk"] == "gradio" and head["app_file"] in space.contents()
    installed, stated = (Version(x) for x in (importlib.metadata.version("gradio"), head["sdk_version"]))
    assert stated.major == installed.major and stated <= installed, "try the demo with it, then edit demo/space.md"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={head['python_version']}"
    assert head["license"] == project["license"].lower() and len(head["short_description"]) <= 60
    assert not {"models", "datasets", "preload_from_hub", "hf_oauth"} & set(head)  # no repository is invented
    assert all(link.startswith("https://arxiv.org/") for link in re.findall(r"\]\(([^)]+)\)", body))


def test_its_requirements_are_some_of_the_projects_and_their_wheels_fit_its_hardware():
    slim, whole = requirements(space.contents()["requirements.txt"]), requirements(ROOT / "requirements.txt")
    assert {name: str(each) for name, each in slim.items()} == {name: str(whole[name]) for name in slim}
    assert not {"timm", "datasets", "lpips", "torchvision"} & set(slim)
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in space.contents()["requirements.txt"].read_text()


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
    options = {"repo_type": "space", "space_sdk": "gradio", "private": True, "exist_ok": True}
    assert api.asked == {"repo": "me/denoiser", **options}
    added = {each.path_in_repo for each in api.operations if isinstance(each, CommitOperationAdd)}
    deleted = {each.path_in_repo for each in api.operations if isinstance(each, CommitOperationDelete)}
    assert deleted == {"mdrn/weights/old.safetensors"} and {"app.py", "README.md", "demo/ui.py"} <= added
    assert not [path for path in added if path.startswith(("tests/", "benchmark/", "runs/", ".")) or "__pyc" in path]


def test_dry_run_needs_no_network_and_lists_every_file(capsys, monkeypatch):
    monkeypatch.setattr(space, "HfApi", None)
    assert space.main(["me/denoiser", "--dry-run"]) == 0
    out = capsys.readouterr().out
    total = sum(source.stat().st_size for source in space.contents().values())
    assert "me/denoiser" in out and all(path in out for path in space.contents())
    assert f"{total:,}" in out and total < 20e6


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


def closure(names):
    """Return the distributions that are installed with some."""
    found, todo = set(), [Requirement(name) for name in names]
    while todo:
        each = todo.pop()
        if canonicalize_name(each.name) not in found:
            found.add(canonicalize_name(each.name))
            for line in importlib.metadata.requires(each.name) or []:
                needed = Requirement(line)
                if any(not needed.marker or needed.marker.evaluate({"extra": extra}) for extra in ("", *each.extras)):
                    todo.append(needed)
    return found


@pytest.mark.slow
def test_the_page_needs_nothing_that_the_space_does_not_have(tmp_path):
    """It is used from the uploaded files alone, without packages that its requirements do not bring."""
    for path, source in space.contents().items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (tmp_path / "job").mkdir()
    stated = requirements(space.contents()["requirements.txt"])
    brought = closure(map(str, stated.values())) | {"mdrn"}  # which a checkout may have installed
    owners = importlib.metadata.packages_distributions()
    hidden = [module for module, names in owners.items() if not brought & set(map(canonicalize_name, names))]
    assert {"timm", "datasets", "lpips"} <= set(hidden)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", USE, *hidden]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    where, *modules = done.stdout.split()
    assert where.startswith(str(tmp_path))
    used = {canonicalize_name(name) for module in modules for name in owners.get(module, [])}
    assert {canonicalize_name(name) for name in stated} <= used
