"""Is one strategy better than another? Paired per image on identical noise, with an interval and every seed.

`summary` imports this module.
"""

import numpy as np
import pandas as pd

BASELINE = "plain"
RESAMPLES = 10_000
CONFIDENCE = 0.95
COLUMNS = ["plan", "size", "strategy", "trained", "arm", "steps", "set", "level", "protocol", "images", "plain"]
COLUMNS += ["distilled", "gain", "low", "high", "seeds"]  # of gains.csv


def paired_bootstrap(differences: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the mean of per-image differences.

    The images are drawn again with replacement; what it leaves out is the spread over training seeds.

    Args:
        differences: (N,) one value for each image.
        resamples: how many times.
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
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def gains(images: pd.DataFrame) -> pd.DataFrame:
    """Compare every run with the plain run of its plan, size, levels, steps and seed.

    A run of an arm is compared with the plain run of this arm if there is one, else with the plain run of no arm; a
    plain run of an arm is compared with that one too.

    Args:
        images: per image: plan, method, size, strategy, trained, seed, arm, steps, set, level, protocol, noise_seed,
            image and psnr.

    Returns:
        One line for each comparison, `COLUMNS`; 'seeds' has each seed's gain, such as '0:+0.051 1:+0.048'.
    """
    runs = images.dropna(subset=["size", "psnr"])
    runs = runs[runs.steps.notna() & ~runs.method.str.endswith("+auto")]
    lines = []
    shared = ["plan", "size", "trained", "steps", "set", "level", "protocol"]
    for key, group in runs.groupby(shared, dropna=False):
        for (strategy, arm), distilled in group.groupby(["strategy", "arm"]):
            plain = group[(group.strategy == BASELINE) & (group.arm == arm)]
            if strategy == BASELINE or plain.empty:
                plain = group[(group.strategy == BASELINE) & (group.arm == "")]
            if (strategy, arm) != (BASELINE, "") and (line := _gain(plain, distilled)):
                lines.append(dict(zip(shared, key, strict=True)) | {"strategy": strategy, "arm": arm} | line)
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return frame.sort_values(["plan", "size", "level", "arm", "strategy", "steps", "set"], ignore_index=True)


def _gain(plain: pd.DataFrame, distilled: pd.DataFrame) -> dict[str, object] | None:
    pair = ["seed", "noise_seed", "image"]
    both = pd.DataFrame({"plain": plain.set_index(pair).psnr, "other": distilled.set_index(pair).psnr})
    both = both.dropna().sort_index()
    if both.empty:
        return None
    difference = both.other - both.plain
    by_image = difference.groupby("image").mean()
    low, high = paired_bootstrap(by_image.to_numpy())
    means = both.groupby("image").mean().mean()
    return {
        "images": len(by_image),
        "plain": means.plain,
        "distilled": means.other,
        "gain": by_image.mean(),
        "low": low,
        "high": high,
        "seeds": " ".join(f"{seed}:{value:+.3f}" for seed, value in difference.groupby("seed").mean().items()),
    }
