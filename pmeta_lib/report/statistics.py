"""Intervals for the comparisons: seeded bootstrap, paired over what both learners saw.

Every function takes a `numpy.random.Generator`, so that an interval is a function of its seed.
"""

import numpy as np

from pmeta_lib.errors import UserError


def bootstrap_interval(
    samples: np.ndarray, generator: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean of `samples` (n,) and its percentile bootstrap interval (mean, low, high)."""
    samples = np.asarray(samples, float)
    if samples.ndim != 1 or samples.size < 2 or not np.isfinite(samples).all():
        raise UserError(f"samples of shape {samples.shape} must be two or more finite numbers in one row.")
    means = samples[generator.integers(samples.size, size=(resamples, samples.size))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(samples.mean()), float(low), float(high)


def paired_interval(
    a: np.ndarray, b: np.ndarray, generator: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean of `a - b`, paired by position (the same seed and task), and its interval."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise UserError(f"paired samples have shapes {a.shape} and {b.shape}; pair them seed by seed.")
    return bootstrap_interval(a - b, generator, level, resamples)


def spearman_interval(
    x: np.ndarray, y: np.ndarray, generator: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Spearman correlation of x with the mean of y over seeds, and its bootstrap interval over seeds.

    x (k,) are the settings; y (seeds, k) the outcomes. A resample without variation counts as 0.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if y.ndim != 2 or y.shape[1:] != x.shape or x.size < 3 or len(y) < 2:
        raise UserError(f"x {x.shape} and y {y.shape} must be (k,) and (seeds, k), k >= 3 and seeds >= 2.")
    draws = y[generator.integers(len(y), size=(resamples, len(y)))].mean(1)
    values = _rank_correlation(x, np.concatenate([y.mean(0)[None], draws]))
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(values[0]), float(low), float(high)


def _rank_correlation(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    a = rankdata(x) - (x.size + 1) / 2
    b = rankdata(rows, axis=1) - (x.size + 1) / 2
    size = np.sqrt((a**2).sum() * (b**2).sum(1))
    return np.divide(b @ a, size, out=np.zeros(len(rows)), where=size > 0)
