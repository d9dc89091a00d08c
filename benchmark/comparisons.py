"""Is one strategy better than another? Paired per image on identical noise, with an interval. No torch.

`tables` and `figures` import this module.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from benchmark.results import RUN_ID, Results

BASELINE = "plain"
RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Gain:
    """What a strategy gains over the plain one for one size, level and test set.

    Args:
        size: preset.
        strategy: what is compared with 'plain'.
        noise_level: on the 8-bit scale, or a range as in a run's id ('0-75') evaluated at `at_level`.
        at_level: noise level of the test.
        set_name: test set.
        plain: mean PSNR of the plain runs, in dB.
        distilled: mean PSNR of the strategy's runs, in dB.
        low: lower end of the 95 % interval of the mean gain.
        high: its upper end.
        by_seed: training seed -> mean gain; the seeds that both strategies have.
        by_image: mean gain of every image.
    """

    size: str
    strategy: str
    noise_level: str
    at_level: float
    set_name: str
    plain: float
    distilled: float
    low: float
    high: float
    by_seed: dict[int, float]
    by_image: pd.Series

    @property
    def mean(self) -> float:
        """Mean gain in dB over images."""
        return self.distilled - self.plain


def paired_bootstrap(
    differences: np.ndarray, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the mean of per-image differences.

    The images are drawn again with replacement; what it leaves out is the spread over training seeds.

    Args:
        differences: (N,) one value for each image.
        resamples: how many times.
        confidence: of the interval.
        seed: of the drawing; the same seed gives the same interval.

    Raises:
        ValueError: if there is no image, or a difference is not finite.

    Example:
        >>> paired_bootstrap(np.array([0.5, 0.5, 0.5]))
        (0.5, 0.5)
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences: expected finite values, one for each image, got {values!r}")
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    means = values[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def gains(frame: pd.DataFrame) -> list[Gain]:
    """Compare every other strategy with 'plain', over the training seeds that both have.

    Args:
        frame: final rows of one plan and protocol, see `Results.of_plan`.

    Returns:
        Gains in the order of size, strategy, level and set; none where there is nothing to compare.
    """
    parts = frame.method.str.extract(RUN_ID)
    runs = frame.assign(size=parts["size"], strategy=parts.strategy, levels=parts.levels, seed=parts.seed)
    runs = runs.dropna(subset=["strategy"]).astype({"seed": int})
    found = []
    for key, group in runs.groupby(["size", "levels", "noise_level", "set"]):
        by_strategy = {name: part for name, part in group.groupby("strategy")}
        plain = by_strategy.pop(BASELINE, None)
        for strategy, distilled in by_strategy.items() if plain is not None else ():
            gain = _gain(key, strategy, plain, distilled)
            if gain:
                found.append(gain)
    return sorted(found, key=lambda gain: (gain.size, gain.strategy, gain.at_level, gain.noise_level, gain.set_name))


def gains_by_share(results: Results, protocol: str) -> list[tuple[int, Gain]]:
    """Return what every plan that is a share of another's steps says: (percentage of the steps, gain)."""
    found = []
    for plan, share in results.shares.items():
        frame = results.of_plan(plan)
        found += [(share, gain) for gain in gains(frame[frame.protocol == protocol])]
    return sorted(found, key=lambda pair: (pair[1].size, pair[1].strategy, pair[1].set_name, pair[1].at_level, pair[0]))


def _gain(key: tuple, strategy: str, plain: pd.DataFrame, distilled: pd.DataFrame) -> Gain | None:
    pair = ["seed", "noise_seed", "image"]
    both = (
        plain.set_index(pair)
        .psnr.to_frame("plain")
        .join(distilled.set_index(pair).psnr.rename("distilled"), how="inner")
    )
    if both.empty:
        return None
    both = both.sort_index()
    difference = both.distilled - both.plain
    by_image = difference.groupby("image").mean()
    low, high = paired_bootstrap(by_image.to_numpy())
    size, levels, at_level, set_name = key
    return Gain(
        size=size,
        strategy=strategy,
        noise_level=levels,
        at_level=at_level,
        set_name=set_name,
        plain=both.plain.groupby("image").mean().mean(),
        distilled=both.distilled.groupby("image").mean().mean(),
        low=low,
        high=high,
        by_seed={int(seed): float(value) for seed, value in difference.groupby("seed").mean().items()},
        by_image=by_image,
    )
