"""Links in the pages lead somewhere, and what they show runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import mdrn
from mdrn import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert all((page.parent / link).exists() for link in local)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mdrn.write_image("photo.png", np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "gradio_client" not in block:  # tests/demo runs those against a server
            exec(block, {})
            Path("clean.png").unlink(missing_ok=True)


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = [line.partition("  #")[0].strip().removeprefix("python -m ") for line in block.splitlines()]
            found += [line for line in lines if line.startswith("mdrn ")]
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_pages_are_understood(command):
    options = cli._parser().parse_args(shlex.split(command)[1:])
    assert callable(options.run)


def numbers_that_rows_have() -> set[str]:
    found = set()
    for name in ("summary.csv", "gains.csv", "speed.csv"):
        for line in (ROOT / "results" / name).read_text().splitlines()[1:]:
            for cell in filter(re.compile(r"-?\d+\.?\d*").fullmatch, line.split(",")):
                found |= {f"{abs(float(cell)):.{decimals}f}" for decimals in range(4)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_measurement_in_the_pages_is_in_a_row(page):
    told = re.findall(r"(\d+(?:\.\d+)?) (?:dB|ms)\b", page.read_text(encoding="utf-8"))
    assert set(told) <= numbers_that_rows_have()


def test_the_citation_and_the_changelog_are_of_this_version():
    assert f"\nversion: {mdrn.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {mdrn.__version__}" in (ROOT / "CHANGELOG.md").read_text()
