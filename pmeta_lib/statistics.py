"""Intervals for the comparisons: seeded bootstrap, paired over what both learners saw; aggregates over families.

Every interval takes a `numpy.random.Generator`, so that it is a function of its seed. The replication unit is the
training seed: episodes and tasks are averaged before, and a run's curve is drawn whole or not at all. Aggregates
follow Agarwal et al. (NeurIPS 2021, arXiv 2108.13264): interquartile mean, performance profile, probability of
improvement, intervals by a bootstrap stratified by family. A *stratum* is an array (n, ...): the n seeds of one
learner on one family. Aggregates take lists of strata that are batched as (r, n, ...), r resamples, and give (r, ...).
"""

from collections.abc import Callable

import numpy as np

from pmeta_lib.files import UserError


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


def stratified_bootstrap(
    strata: list[np.ndarray], statistic: Callable[[list[np.ndarray]], np.ndarray], generator: np.random.Generator,
    level: float = 0.95, resamples: int = 10_000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """`statistic` of the strata and its percentile interval: (value, low, high), each of the statistic's shape.

    Every resample draws the seeds of each stratum (n_k, ...) with replacement, independently of the other strata; all
    else about a drawn seed (time points, tasks) comes with it. `statistic` maps batched strata to (r, ...). Raises
    `UserError` for a stratum of fewer than two seeds, or with a number that is not finite.
    """
    strata = [np.asarray(s, float) for s in strata]
    for k, s in enumerate(strata):
        if s.ndim < 1 or len(s) < 2 or not np.isfinite(s).all():
            raise UserError(f"stratum {k} of shape {s.shape} must hold two or more seeds, all numbers finite.")
    draws, chunk = [], 500  # bounds the memory that whole curves take
    for start in range(0, resamples, chunk):
        r = min(chunk, resamples - start)
        draws.append(statistic([s[generator.integers(len(s), size=(r, len(s)))] for s in strata]))
    low, high = np.quantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return statistic([s[None] for s in strata])[0], low, high


def iqm(strata: list[np.ndarray]) -> np.ndarray:
    """Interquartile mean over all runs of all strata: the lowest and the highest quarter (n // 4 each) are dropped."""
    runs = np.sort(np.concatenate(strata, axis=1), axis=1)
    cut = runs.shape[1] // 4
    return runs[:, cut : runs.shape[1] - cut].mean(1)


def performance_profile(strata: list[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs whose score exceeds each of `thresholds` (k,), families weighing alike: (r, k)."""
    return np.mean([(s[..., None] > thresholds).mean(1) for s in strata], axis=0)


def improvement(strata: list[np.ndarray]) -> np.ndarray:
    """Probability that a run of ours beats one of theirs on a family drawn at random; a tie counts one half.

    `strata`: ours on the first to the last family, then theirs in the same order (Mann-Whitney's statistic / n m).
    """
    half = len(strata) // 2
    pairs = [(a[:, :, None], b[:, None, :]) for a, b in zip(strata[:half], strata[half:], strict=True)]
    return np.mean([(a > b).mean((1, 2)) + 0.5 * (a == b).mean((1, 2)) for a, b in pairs], axis=0)


def normalised(strata: list[np.ndarray], random: list[float]) -> list[np.ndarray]:
    """Scores with 0 = `random` (one number a family) and 1 = the mean over seeds of the reference.

    `strata`: returns of the learner on each family (r, n, ...), then the reference's final returns (r, m) in the same
    order. Bootstrapped together, the uncertainty of the scale is part of the interval; seeds are not paired.
    """
    half = len(strata) // 2
    scales = [y.mean(1) - low for y, low in zip(strata[half:], random, strict=True)]
    return [(x - low) / s.reshape(-1, *[1] * (x.ndim - 1)) for x, s, low in zip(strata[:half], scales, random)]
