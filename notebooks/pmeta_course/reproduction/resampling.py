"""What is resampled, for figures and the tables of notebooks: no verdict rests on it. Bootstrap intervals over seeds,
and aggregates over families, which follow Agarwal et al. (NeurIPS 2021, arXiv 2108.13264): a *stratum* is an array
(n, ...), the n seeds of one learner on one family; aggregates take lists of strata that are batched as (r, n, ...), r
resamples, and give (r, ...)."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import stats

from pmeta_course.reproduction.statistics import PERCENTILES, Interval, sound
from pmeta_lib.files import UserError


def bootstrap_interval(samples: np.ndarray, generator: Generator, resamples: int = 10_000) -> Interval:
    """Mean of `samples` (n,) and its percentile bootstrap interval."""
    samples = sound(samples)
    means = samples[generator.integers(samples.size, size=(resamples, samples.size))].mean(1)
    low, high = np.quantile(means, PERCENTILES).tolist()
    return float(samples.mean()), low, high


def paired_interval(a: np.ndarray, b: np.ndarray, generator: Generator, resamples: int = 10_000) -> Interval:
    """Mean of `a - b`, paired by position (the same seed and task), and its interval."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise UserError(f"paired samples have shapes {a.shape} and {b.shape}; pair them seed by seed.")
    return bootstrap_interval(a - b, generator, resamples)


def spearman_interval(x: np.ndarray, y: np.ndarray, generator: Generator, resamples: int = 10_000) -> Interval:
    """Spearman correlation of settings x (k,) with the mean over seeds of outcomes y (seeds, k), and its bootstrap
    interval over seeds. A resample without variation counts as 0."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if y.ndim != 2 or y.shape[1:] != x.shape or x.size < 3 or len(y) < 2:
        raise UserError(f"x {x.shape} and y {y.shape} must be (k,) and (seeds, k), k >= 3 and seeds >= 2.")
    draws = y[generator.integers(len(y), size=(resamples, len(y)))].mean(1)
    values = rank_correlation(x, np.concatenate([y.mean(0)[None], draws]))
    low, high = np.quantile(values[1:], PERCENTILES).tolist()
    return float(values[0]), low, high


def rank_correlation(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x (k,) with each of `rows (n, k)`, (n,); 0 where one of them does not vary."""
    a = stats.rankdata(x) - (x.size + 1) / 2
    b = stats.rankdata(rows, axis=1) - (x.size + 1) / 2
    size = np.sqrt((a**2).sum() * (b**2).sum(1))
    return np.divide(b @ a, size, out=np.zeros(len(rows)), where=size > 0)


def stratified_bootstrap(
    strata: list[np.ndarray], statistic: Callable[[list[np.ndarray]], np.ndarray], generator: Generator,
    resamples: int = 10_000, expanded: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """`statistic` of the strata and its interval: (value, low, high), each of the statistic's shape.

    Every resample draws the seeds of each stratum (n_k, ...) with replacement, independently of the other strata; all
    else about a drawn seed (time points, tasks) comes with it. `statistic` maps batched strata to (r, ...). The
    percentiles are `expanded` (Hesterberg 2015) by what the bootstrap of a mean of n seeds lacks, sqrt(n / (n - 1)),
    and Student's t. Raises `UserError` for a stratum of fewer than two seeds, or with a number that is not finite."""
    strata = [np.asarray(s, float) for s in strata]
    for k, s in enumerate(strata):
        if s.ndim < 1 or len(s) < 2 or not np.isfinite(s).all():
            raise UserError(f"stratum {k} of shape {s.shape} must hold two or more seeds, all numbers finite.")
    draws = []
    for r in np.diff([*range(0, resamples, 500), resamples]):  # so many at once: whole curves take memory
        draws.append(statistic([s[generator.integers(len(s), size=(r, len(s)))] for s in strata]))
    n, freedom, tail = min(map(len, strata)), sum(len(s) - 1 for s in strata), PERCENTILES[0]
    if expanded:
        tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(tail, freedom))
    low, high = np.quantile(np.concatenate(draws), [tail, 1 - tail], axis=0)
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
    """Probability that a run of ours beats one of theirs on a family drawn at random (Mann-Whitney's statistic / n m);
    a tie counts one half. `strata`: ours on the first to the last family, then theirs in the same order."""
    half = len(strata) // 2
    pairs = [(a[:, :, None], b[:, None, :]) for a, b in zip(strata[:half], strata[half:], strict=True)]
    return np.mean([(a > b).mean((1, 2)) + 0.5 * (a == b).mean((1, 2)) for a, b in pairs], axis=0)


def normalised(strata: list[np.ndarray], random: list[float]) -> list[np.ndarray]:
    """Scores with 0 = `random` (one number a family) and 1 = the mean over seeds of the reference. `strata`: returns of
    the learner on each family (r, n, ...), then the reference's final returns (r, m) in the same order. Bootstrapped
    together, the uncertainty of the scale is part of the interval; seeds are not paired."""
    half = len(strata) // 2
    scales = [y.mean(1) - low for y, low in zip(strata[half:], random, strict=True)]
    return [(x - low) / s.reshape(-1, *[1] * (x.ndim - 1)) for x, s, low in zip(strata[:half], scales, random)]
