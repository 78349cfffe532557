"""Exercises of notebooks 10 and 11: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np

from pmeta_course.exercises.checkers import choice, function
from pmeta_lib import moreau

_rng = np.random.default_rng


# ---- 10: adaptation to unseen tasks


def _posterior(means, variances, prior=1.0):
    precision = prior + (1 / variances).sum(0)
    return (means / variances).sum(0) / precision, 1 / precision


def _by_variance(means, variances):
    weight = 1 + variances.sum(0)
    return (means * variances).sum(0) / weight, 1 / weight


def _best_lam(a, sigma, s, n):
    return a * s**2 / (n * sigma**2)


def _average(steps, returns):
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))


_FACTORS = [(_rng(s).normal(size=(m, 2)), np.exp(_rng(s + 1).normal(size=(m, 2)))) for s, m in ((0, 3), (4, 5), (6, 0))]
_SHRINK = [(1.0, 0.5, 2.0, 4), (4.0, 2.0, 0.7, 1), (0.3, 1.5, 3.0, 10)]
_UNEVEN = [
    (np.array([0.0, 20, 40, 100, 400]), np.array([-20.0, -19, -14, -13, -9])),
    (np.array([0.0, 1_000, 2_000, 10_000]), np.array([3.0, 40, 80, 75])),
    (np.array([100, 200, 1_000]), np.array([5, 6, 9])),
]  # whole numbers, and not from 0 on
TENTH = {
    "10.1": function(_best_lam, _SHRINK, {
        "upside down: noisy data ask for a stiffer spring, scattered tasks for a softer one":
            lambda a, sigma, s, n: 1 / _best_lam(a, sigma, s, n),
        "the number of episodes is missing: an average over n has variance s^2 / n":
            lambda a, sigma, s, n: _best_lam(a, sigma, s, 1),
        "variances are compared, not standard deviations": lambda a, sigma, s, n: a * s / (n * sigma),
        "the curvature a is missing: lambda has the unit of a": lambda a, sigma, s, n: _best_lam(1.0, sigma, s, n),
        "that is the share w of theta; solve w = lambda / (a + lambda) for lambda":
            lambda a, sigma, s, n: (s**2 / n) / (sigma**2 + s**2 / n),
    }, ("the best lambda",)),
    "10.2": function(_posterior, _FACTORS, {
        "the prior N(0, 1) is a factor like the others: add its precision, 1": lambda m, v: _posterior(m, v, 0.0),
        "weigh by the precision 1 / variance: a vague factor (large variance) says little": _by_variance,
        "the mean must be weighted by the precisions too; that is the plain average": lambda m, v: (
            m.sum(0) / (1 + len(m)), _posterior(m, v)[1]),
        "the weighted sum of the means is still to be divided by the total precision": lambda m, v: (
            (m / v).sum(0), _posterior(m, v)[1]),
        "that is the precision; the variance is 1 / precision": lambda m, v: (
            _posterior(m, v)[0], 1 / _posterior(m, v)[1]),
        "that is the standard deviation; give the variance": lambda m, v: (
            _posterior(m, v)[0], np.sqrt(_posterior(m, v)[1])),
    }, ("the mean", "the variance")),
    "10.3": function(_average, _UNEVEN, {
        "the steps are uneven: the plain mean counts the crowded beginning too much": lambda t, r: float(r.mean()),
        "that is the area; divide it by the length of the adaptation": lambda t, r: float(np.trapezoid(r, t)),
        "the adaptation lasts from the first step to the last, and the first need not be 0":
            lambda t, r: float(np.trapezoid(r, t) / t[-1]),
        "each value holds from its step on, as if nothing were learned in between: join them by straight lines":
            lambda t, r: float((r[:-1] * np.diff(t)).sum() / (t[-1] - t[0])),
        "each value is counted for the steps before it, when it was not reached yet: join them by straight lines":
            lambda t, r: float((r[1:] * np.diff(t)).sum() / (t[-1] - t[0])),
        "that is the return at the end; the way there counts too": lambda t, r: float(r[-1]),
    }, ("the average return",)),
    "10.4": choice("c", {
        "a": "the start is high because the learner has been trained on these very tasks: nothing was generalised",
        "b": "five seeds make an interval narrow, not the tasks new",
        "d": "the curve is valid; it answers another question: how well a known task is taken up again",
    }),
}  # fmt: skip


# ---- 11: ablations


def _paired(variant, default, ddof=1):
    d = variant - default
    return float(d.mean()), float(d.std(ddof=ddof) / np.sqrt(d.size))


def _unpaired_error(variant, default):
    return float(np.sqrt((variant.var(ddof=1) + default.var(ddof=1)) / variant.size))


def _local(theta, c, a, lam, e, R):
    w = theta
    for _ in range(R):
        w = moreau.local_step(w, (a * c + lam * w) / (a + lam), e)
    return w


_SEEDS = [(100 + 30 * _rng(s).normal(size=n) + _rng(s + 1).normal(size=n), 100 + 30 * _rng(s).normal(size=n))
          for s, n in ((0, 5), (2, 8))]  # fmt: skip
_LOCAL = [(2.0, 0.5, 1.0, 2.0, 0.7, 3), (-1.0, 1.0, 4.0, 0.5, 0.4, 5), (0.0, 1.0, 0.5, 3.0, 0.9, 2),
          (3.0, 1.0, 2.0, 1.0, 0.5, 1)]  # fmt: skip
ELEVENTH = {
    "11.1": function(_paired, _SEEDS, {
        "the difference is variant minus default: above 0 means that the change helps": lambda v, d: (
            -_paired(v, d)[0], _paired(v, d)[1]),
        "each seed is a pair: take the scatter of the differences, not that of both columns": lambda v, d: (
            _paired(v, d)[0], _unpaired_error(v, d)),
        "that is the scatter of one difference; the mean of n scatters sqrt(n) times less": lambda v, d: (
            _paired(v, d)[0], _paired(v, d)[1] * np.sqrt(v.size)),
        "divide by sqrt(n), not by n": lambda v, d: (_paired(v, d)[0], _paired(v, d)[1] / np.sqrt(v.size)),
        "use n - 1 (ddof=1): the mean was estimated from the same few seeds": lambda v, d: _paired(v, d, ddof=0),
    }, ("the mean difference", "the standard error")),
    "11.2": function(lambda p, m: 1 - (1 - p) ** m, [(0.05, 15), (0.15, 30), (0.25, 4), (0.3, 1), (0.0, 5)], {
        "that is the expected number of false alarms; it can exceed 1, a probability cannot": lambda p, m: p * m,
        "that is the probability that all are false alarms": lambda p, m: p**m,
        "that is the probability that none is": lambda p, m: (1 - p) ** m,
        "that is the probability of exactly one; two are an alarm as well": lambda p, m: m * p * (1 - p) ** (m - 1),
    }, ("the probability",)),
    "11.3": function(_local, _LOCAL, {
        "that is one local step; the next begins where w has come to": lambda theta, c, a, lam, e, R: _local(
            theta, c, a, lam, e, 1),
        "the prox must be taken anew from the moved w: each step is shorter than the one before":
            lambda theta, c, a, lam, e, R: theta + R * (_local(theta, c, a, lam, e, 1) - theta),
        "eta lambda is missing: w goes only that share of the way to y": lambda theta, c, a, lam, e, R: _local(
            theta, c, a, lam, 1.0, R),
        "in the prox, a weighs the task's optimum c and lambda weighs w": lambda theta, c, a, lam, e, R: _local(
            theta, c, lam, a, e, R),
        "that is y, the last prox; w is asked for": lambda theta, c, a, lam, e, R: (
            (a * c + lam * _local(theta, c, a, lam, e, R - 1)) / (a + lam)),
    }, ("w",)),
    "11.4": choice("a", {
        "b": "the start was compared at lambda = 0.01 only; what the two switches do together was not run",
        "c": "the other way round: without a pull only the cold start brings the policies back together",
        "d": "nothing says that effects grow with lambda; the pair has to be run",
    }),
}  # fmt: skip

EXERCISES = TENTH | ELEVENTH
