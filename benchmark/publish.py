"""`python -m benchmark.publish ID --repo USER/NAME`: a released network on the Hugging Face Hub, with its results.

The model card's numbers are the rows of `results/`, and only of these very weights. Nothing imports this module.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import mdrn
from benchmark import results as results_module
from benchmark.rows import RowsError
from mdrn.checkpoint import Header
from mdrn.hub import Score


def scores(results: results_module.Results, header: Header) -> list[Score]:
    """Return the means of a network's rows over each test set, level and protocol, noise seed 0.

    Runs of a plan may have its id and other weights; theirs are not counted.

    Raises:
        RowsError: if there are none, or they are of other weights.
    """
    of_id = results.final[(results.final.method == header.id) & (results.final.noise_seed == 0)]
    frame = of_id[of_id.weights == header.sha256[:16]].drop_duplicates(["protocol", "set", "noise_level", "image"])
    if frame.empty:
        others = ", ".join(sorted(set(of_id.weights)))
        got = f"rows of other weights ({others})" if others else "none"
        raise RowsError(f"{header.id}: expected rows of these weights, got {got}; run: python -m benchmark.run")
    order = frame["set"].map({name: index for index, name in enumerate(results_module.SETS)})
    grouped = frame.assign(order=order).groupby(["protocol", "order", "set", "noise_level"])
    return [
        Score(name, float(level), protocol, len(group), float(group.psnr.mean()), float(group.ssim.mean()))
        for (protocol, _, name, level), group in grouped
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 2 with one line on stderr for any error."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.publish", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="released id or weights file")
    parser.add_argument("--repo", required=True, metavar="USER/NAME", help="repository on the Hub; made if missing")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded; no network is used")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    options = parser.parse_args(arguments)
    try:
        network = mdrn.load(options.model)
        card = {"scores": scores(results_module.load(options.results), network.header), "repo": options.repo}
        if options.dry_run:
            _show(network, card)
        else:
            message = f"Upload {network.header.id}, weights {network.header.sha256[:16]}"
            private = options.private or None
            print(network.push_to_hub(options.repo, commit_message=message, private=private, model_card_kwargs=card))
    except (ValueError, OSError, RuntimeError, AttributeError) as error:
        parser.error(" ".join(str(error).split()))
    return 0


def _show(network: mdrn.model.MDRN, card: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder, model_card_kwargs=card)
        for path in sorted(Path(folder).iterdir()):
            print(f"{path.name}: {path.stat().st_size} bytes")
        print(f"\n{(Path(folder) / 'README.md').read_text()}")


if __name__ == "__main__":
    sys.exit(main())
