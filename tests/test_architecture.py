"""What holds the project together: imports go one way, and no file says more than it should."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for name in ("mdrn", "benchmark", "demo") for p in (ROOT / name).rglob("*.py"))
MAY_IMPORT = {"mdrn": {"mdrn"}, "benchmark": {"mdrn", "benchmark"}, "demo": {"mdrn", "demo"}}


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Return the first names of all modules that a file imports, also inside functions unless told otherwise."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported(path) & {"mdrn", "benchmark", "demo"} <= MAY_IMPORT[package]


def test_the_interface_alone_knows_gradio():
    users = {p.relative_to(ROOT).as_posix() for p in SOURCES if "gradio" in imported(p)}
    assert users and all(name.startswith("demo/") for name in users)
    assert "gradio" not in imported(ROOT / "demo" / "service.py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def edges_of(path: Path) -> set[str]:
    """Return the project's modules that a file imports, also inside functions."""
    known, found = {module_of(p) for p in SOURCES}, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & known


def test_no_import_circle():
    waiting = {module_of(p): edges_of(p) for p in SOURCES if p.stem != "__init__"}
    assert len(waiting) > 50 and any(waiting.values())
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"each of these waits for another of them: {sorted(waiting)}"


def test_the_packages_are_small_enough_to_read():
    assert len([p for p in SOURCES if p.parent.name == "benchmark"]) <= 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_say_why_they_exist(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring or not path.read_text().strip()


def test_no_machine_path_is_named_and_no_large_file_is_tracked():
    try:
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("run in a git checkout, with git installed, to run this test")
    files = [ROOT / name for name in tracked.split("\0") if name and (ROOT / name).is_file()]
    pattern = re.compile(r"/(?:wo" + r"rk|ro" + r"ot|ho" + r"me)/[a-z]")
    for path in files:
        assert path.stat().st_size < 12 * 2**20, path
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".cff", ".csv", ".json"} or path.name == "run":
            assert not pattern.search(path.read_text()), path
