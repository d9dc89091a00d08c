"""`python -m benchmark.publish ID --repo USER/NAME`: a released network on the Hugging Face Hub, with its results.

The model card's numbers are the rows of `results/`, and only of these very weights. Nothing imports this module.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import mdrn
from benchmark import summary
from benchmark.testsets import SETS
from mdrn import hub
from mdrn.checkpoint import Header
from mdrn.denoiser import MdrnError
from mdrn.hub import Score


def scores(results: summary.Results, header: Header) -> list[Score]:
    """Return the means of a network over each test set, level and protocol, noise seed 0.

    Runs of a plan may have its id and other weights; theirs are not counted.

    Raises:
        MdrnError: if there are none, or they are of other weights.
    """
    frame = results.summary[(results.summary.method == header.id) & (results.summary.noise_seed == 0)]
    ours = frame[(frame.weights == header.sha256[:16]) & frame.level.notna()]
    ours = ours.drop_duplicates(["protocol", "set", "level"])
    if ours.empty:
        others = ", ".join(sorted(set(frame.weights)))
        got = f"rows of other weights ({others})" if others else "none"
        raise MdrnError(f"{header.id}: expected rows of these weights, got {got}; run: python -m benchmark.run")
    order = ours["set"].map({name: index for index, name in enumerate(SETS)})
    return [
        Score(line.set, line.level, line.protocol, int(line.images), line.psnr, line.ssim)
        for line in ours.assign(order=order).sort_values(["protocol", "order", "level"]).itertuples()
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
        found = scores(summary.load(options.results), network.header)
        if options.dry_run:
            with tempfile.TemporaryDirectory() as folder:
                for path in sorted(hub.save(network, folder, found, options.repo).iterdir()):
                    print(f"{path.name}: {path.stat().st_size} bytes")
                print(f"\n{Path(folder, 'README.md').read_text()}")
        else:
            message = f"Upload {network.header.id}, weights {network.header.sha256[:16]}"
            print(hub.push(network, options.repo, found, options.private, message))
    except (MdrnError, OSError, RuntimeError) as error:
        parser.error(" ".join(str(error).split()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
