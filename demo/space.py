"""Put the demo on a Hugging Face Space: `python -m demo.space USER/NAME [--private] [--dry-run]`.

The Space gets what the page needs and nothing else. Log in first with `hf auth login`, or set HF_TOKEN.
"""

import argparse
import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

ROOT = Path(__file__).parent.parent
PARTS = (
    "app.py",
    "LICENSE",
    "CITATION.cff",
    "demo/*.py",
    "demo/about.md",
    "demo/*.html",
    "demo/*.css",
    "demo/tabs/*.py",
    "demo/examples/*",
    "mdrn/*.py",
    "mdrn/files/*.py",
    "mdrn/*.csv",
    "mdrn/*.safetensors",
    "mdrn/weights/*.safetensors",
    "results/summary.csv",
)
RENAMED = {"README.md": "demo/space.md", "requirements.txt": "demo/space.txt"}  # in the Space: in the checkout


def contents(root: Path = ROOT) -> dict[str, Path]:
    """Return what a Space is made of: path in the Space -> file.

    Raises:
        FileNotFoundError: if a part is missing.
    """
    found = {}
    for part in PARTS:
        paths = sorted(path for path in root.glob(part) if path.is_file())
        if not paths:
            raise FileNotFoundError(f"{root / part}: expected at least one file, got none; use a whole checkout")
        found |= {path.relative_to(root).as_posix(): path for path in paths}
    return found | {path: root / source for path, source in RENAMED.items()}


def upload(repo: str, api: HfApi, *, private: bool = False) -> str:
    """Make the Space 'user/name' where it is missing, and replace its files by the demo's in one commit.

    A new Space that is private is visible to its owner alone. Returns the Space's address.
    """
    files = contents()
    address = api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    old = set(api.list_repo_files(repo, repo_type="space")) - {*files, ".gitattributes"}  # which the Hub writes
    operations = [CommitOperationAdd(path, source) for path, source in files.items()]
    operations += [CommitOperationDelete(path) for path in sorted(old)]
    api.create_commit(repo, operations, commit_message="Update the demo", repo_type="space")
    return str(address)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.space", description=__doc__.splitlines()[0])
    parser.add_argument("repo", metavar="USER/NAME", help="the Space; it is made if it does not exist")
    parser.add_argument("--private", action="store_true", help="a new Space is visible to its owner alone")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded; no network, no login")
    options = parser.parse_args(arguments)
    try:
        validate_repo_id(options.repo)
        if "/" not in options.repo:
            raise HFValidationError(f"expected USER/NAME, got {options.repo!r}")
        if options.dry_run:
            sizes = {path: source.stat().st_size for path, source in sorted(contents().items())}
            print(f"Would upload to the Space {options.repo}:")
            for path, size in sizes.items():
                print(f"{size:>9,}  {path}")
            print(f"{sum(sizes.values()):>9,}  bytes in {len(sizes)} files")
        else:
            print(upload(options.repo, HfApi(), private=options.private))
    except Exception as error:  # whatever the Hub, the network or its library, which differs by version, complain of
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"python -m demo.space: {options.repo}: {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
