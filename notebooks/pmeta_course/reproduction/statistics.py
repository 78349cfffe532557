"""Intervals for the comparisons: over training seeds, unpaired, honest at five seeds.

The unit is the training seed: episodes and tasks are averaged before, a run's curve is taken whole or not at all.
Intervals that verdicts rest on are closed formulas whose coverage at n = 5 the tests simulate:

- means and their differences: Welch's t at a *quarter* of the error asked for (`contrast`), which covers 93 % or more
  where returns are skewed like an exponential (Student's own t covers 88 %, a percentile bootstrap 78 %) and where one
  run in five fails (a bootstrap t covers 89 %), at half again the width;
- scores: Fieller's interval of a ratio with the same t (`score_interval`);
- probabilities of improvement: Wilson's interval with as many trials as the smaller sample has runs, which is the
  largest variance that the Mann-Whitney statistic can have (`improvement_interval`)."""

import numpy as np
from scipy import stats

from pmeta_lib.files import UserError

LEVEL = 0.95  # of every interval
PERCENTILES = (1 - LEVEL) / 2, (1 + LEVEL) / 2
Interval = tuple[float, float, float]  # value, low, high


def last_quarter(steps):
    """Which of a run's evaluated `steps` (an array, index or series) its result is the mean over, never the maximum."""
    return steps > 0.75 * steps.max()


def sound(sample: np.ndarray) -> np.ndarray:
    """`sample` (n,) as floats. Raises `UserError` unless it is two or more finite numbers."""
    sample = np.asarray(sample, float)
    if sample.ndim != 1 or sample.size < 2 or not np.isfinite(sample).all():
        raise UserError(f"samples of shape {sample.shape} must be two or more finite numbers in one row.")
    return sample


def _moments(samples: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Mean, squared standard error and degrees of freedom of each sample."""
    moments = ((x.mean(), x.var(ddof=1) / x.size, x.size - 1) for x in map(sound, samples))
    return tuple(np.array(m) for m in zip(*moments))


def _quantile(variances: np.ndarray, freedom: np.ndarray) -> float:
    """Student's t at a quarter of the error, with Welch and Satterthwaite's degrees of freedom."""
    total = (variances**2 / freedom).sum()
    df = variances.sum() ** 2 / total if total > 0 else freedom.sum()
    return float(stats.t.ppf(1 - (1 - LEVEL) / 8, df))


def contrast(samples: list[np.ndarray], weights: list[float]) -> Interval:
    """The weighted sum of the means of independent `samples`, arrays (n_k,) of two or more, and its interval."""
    mean, square, freedom = _moments(samples)
    parts = np.square(weights) * square
    value, half = float(mean @ np.asarray(weights)), _quantile(parts, freedom) * float(np.sqrt(parts.sum()))
    return value, value - half, value + half


def mean_interval(sample: np.ndarray) -> Interval:
    """The mean of a sample (n,), and its interval."""
    return contrast([sample], [1.0])


def difference_interval(a: np.ndarray, b: np.ndarray) -> Interval:
    """The mean of `a` minus that of `b`, and its interval; nothing is paired."""
    return contrast([a, b], [1.0, -1.0])


def score_interval(x: np.ndarray, one: np.ndarray, zero: np.ndarray) -> Interval:
    """The mean of `x` (n,) on the scale from the mean of `zero` (0) to that of `one` (1), and Fieller's interval: every
    score s for which x - s one - (1 - s) zero may have mean 0, so that the uncertainty of the scale is in it. Without
    bounds (infinite) where `one` is not above `zero` beyond chance."""
    (x_, one_, zero_), (vx, v1, v0), freedom = _moments([x, one, zero])
    above, unit = x_ - zero_, one_ - zero_
    value = float(above / unit)
    t2 = _quantile(np.array([vx, value**2 * v1, (1 - value) ** 2 * v0]), freedom) ** 2
    a, b, c = unit**2 - t2 * (v1 + v0), above * unit - t2 * v0, above**2 - t2 * (vx + v0)
    if a <= 0:
        return value, -np.inf, np.inf
    root = np.sqrt(max(b**2 - a * c, 0.0))
    return value, float((b - root) / a), float((b + root) / a)


def improvement_interval(ours: list[np.ndarray], theirs: list[np.ndarray]) -> Interval:
    """The chance that a run of ours beats one of theirs, families weighing alike, and Wilson's interval. `ours`,
    `theirs`: a sample (n,) a family, in the same order; a tie counts one half."""
    value, trials = _improvement(ours, theirs)
    z2 = stats.norm.ppf((1 + LEVEL) / 2) ** 2
    centre = (value + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * (value * (1 - value) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return value, float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def improvement_p(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """One-sided p of "no better than even", by the same statistic: below 0.025 where the interval exceeds one half."""
    value, trials = _improvement(ours, theirs)
    return float(stats.norm.sf((value - 0.5) * 2 * np.sqrt(trials)))


def _improvement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[float, float]:
    """The probability of improvement, and the number of coin tosses whose variance bounds its own."""
    pairs = [(np.asarray(a, float)[:, None], np.asarray(b, float)) for a, b in zip(ours, theirs, strict=True)]
    chances = [(a > b).mean() + 0.5 * (a == b).mean() for a, b in pairs]
    return float(np.mean(chances)), len(pairs) ** 2 / sum(1 / min(a.size, b.size) for a, b in pairs)


def minus(a: Interval, b: Interval) -> Interval:
    """The difference of two estimates with its interval, from theirs (Newcombe's square and add): exact for independent
    estimates, wider than needed where they rise and fall together."""
    value = a[0] - b[0]
    return value, value - np.hypot(a[0] - a[1], b[2] - b[0]), value + np.hypot(a[2] - a[0], b[0] - b[1])


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p of each of several tests: all below alpha together are false with probability alpha at most."""
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * np.asarray(p, float)[order]), 1.0)
    return adjusted[np.argsort(order)].tolist()
