"""Exercises of notebooks 10, 11, 13 and 14: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np
from scipy.stats import binom

from pmeta_course.exercises.checkers import choice, function, normal
from pmeta_lib import moreau


# ---- 10: adaptation to unseen tasks
def _posterior(means, variances, prior=1.0):
    precision = prior + (1 / variances).sum(0)
    return (means / variances).sum(0) / precision, 1 / precision


_FACTORS = [(normal(s, m, 2), np.exp(normal(s + 1, m, 2))) for s, m in ((0, 3), (4, 5), (6, 0))]
_SHRINK = [(1.0, 0.5, 2.0, 4), (4.0, 2.0, 0.7, 1), (0.3, 1.5, 3.0, 10)]
_UNEVEN = [
    (np.array([0.0, 20, 40, 100, 400]), np.array([-20.0, -19, -14, -13, -9])),
    (np.array([0.0, 1_000, 2_000, 10_000]), np.array([3.0, 40, 80, 75])),
    (np.array([100, 200, 1_000]), np.array([5, 6, 9])),
]  # whole numbers, and not from 0 on
EXERCISES = {
    "10.1": function(lambda a, sigma, s, n: a * s**2 / (n * sigma**2), _SHRINK, lambda a, sigma, s, n: {
        "upside down: noisy data ask for a stiffer spring, scattered tasks for a softer one": n * sigma**2 / (a * s**2),
        "the number of episodes is missing: an average over n has variance s^2 / n": a * s**2 / sigma**2,
        "variances are compared, not standard deviations": a * s / (n * sigma),
        "the curvature a is missing: lambda has the unit of a": s**2 / (n * sigma**2),
        "that is the share w of theta; solve w = lambda / (a + lambda) for lambda": s**2 / n / (sigma**2 + s**2 / n),
    }, "the best lambda"),
    "10.2": function(_posterior, _FACTORS, lambda m, v: {
        "the prior N(0, 1) is a factor like the others: add its precision, 1": _posterior(m, v, 0.0),
        "weigh by the precision 1 / variance: a vague factor (large variance) says little":
            ((m * v).sum(0) / (1 + v.sum(0)), 1 / (1 + v.sum(0))),
        "the mean must be weighted by the precisions too; that is the plain average":
            (m.sum(0) / (1 + len(m)), _posterior(m, v)[1]),
        "the weighted sum of the means is still to be divided by the total precision":
            ((m / v).sum(0), _posterior(m, v)[1]),
        "that is the precision; the variance is 1 / precision": (_posterior(m, v)[0], 1 / _posterior(m, v)[1]),
        "that is the standard deviation; give the variance": (_posterior(m, v)[0], np.sqrt(_posterior(m, v)[1])),
    }, "the mean", "the variance"),
    "10.3": function(lambda t, r: np.trapezoid(r, t) / (t[-1] - t[0]), _UNEVEN, lambda t, r: {
        "the steps are uneven: the plain mean counts the crowded beginning too much": r.mean(),
        "that is the area; divide it by the length of the adaptation": np.trapezoid(r, t),
        "the adaptation lasts from the first step to the last, and the first need not be 0": np.trapezoid(r, t) / t[-1],
        "each value holds from its step on, as if nothing were learned in between: join them by straight lines":
            (r[:-1] * np.diff(t)).sum() / (t[-1] - t[0]),
        "each value is counted for the steps before it, when it was not reached yet: join them by straight lines":
            (r[1:] * np.diff(t)).sum() / (t[-1] - t[0]),
        "that is the return at the end; the way there counts too": r[-1],
    }, "the average return"),
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


def _local(theta, c, a, lam, e, R):
    w = theta
    for _ in range(R):
        w = moreau.local_step(w, (a * c + lam * w) / (a + lam), e)
    return w


_SEEDS = [(100 + 30 * normal(s, n) + normal(s + 1, n), 100 + 30 * normal(s, n)) for s, n in ((0, 5), (2, 8))]
_ALARMS = [(0.05, 15), (0.15, 30), (0.25, 4), (0.3, 1), (0.0, 5)]
_LOCAL = [(2.0, 0.5, 1.0, 2.0, 0.7, 3), (-1.0, 1.0, 4.0, 0.5, 0.4, 5), (0.0, 1.0, 0.5, 3.0, 0.9, 2)]
_LOCAL += [(3.0, 1.0, 2.0, 1.0, 0.5, 1)]
EXERCISES |= {
    "11.1": function(_paired, _SEEDS, lambda v, d: {
        "the difference is variant minus default: above 0 means that the change helps":
            (-_paired(v, d)[0], _paired(v, d)[1]),
        "each seed is a pair: take the scatter of the differences, not that of both columns":
            (_paired(v, d)[0], np.sqrt((v.var(ddof=1) + d.var(ddof=1)) / v.size)),
        "that is the scatter of one difference; the mean of n scatters sqrt(n) times less":
            (_paired(v, d)[0], _paired(v, d)[1] * np.sqrt(v.size)),
        "divide by sqrt(n), not by n": (_paired(v, d)[0], _paired(v, d)[1] / np.sqrt(v.size)),
        "use n - 1 (ddof=1): the mean was estimated from the same few seeds": _paired(v, d, ddof=0),
    }, "the mean difference", "the standard error"),
    "11.2": function(lambda p, m: 1 - (1 - p) ** m, _ALARMS, lambda p, m: {
        "that is the expected number of false alarms; it can exceed 1, a probability cannot": p * m,
        "that is the probability that all are false alarms": p**m,
        "that is the probability that none is": (1 - p) ** m,
        "that is the probability of exactly one; two are an alarm as well": m * p * (1 - p) ** (m - 1),
    }, "the probability"),
    "11.3": function(_local, _LOCAL, lambda theta, c, a, lam, e, R: {
        "that is one local step; the next begins where w has come to": _local(theta, c, a, lam, e, 1),
        "the prox must be taken anew from the moved w: each step is shorter than the one before":
            theta + R * (_local(theta, c, a, lam, e, 1) - theta),
        "eta lambda is missing: w goes only that share of the way to y": _local(theta, c, a, lam, 1.0, R),
        "in the prox, a weighs the task's optimum c and lambda weighs w": _local(theta, c, lam, a, e, R),
        "that is y, the last prox; w is asked for": (a * c + lam * _local(theta, c, a, lam, e, R - 1)) / (a + lam),
    }, "w"),
    "11.4": choice("a", {
        "b": "the start was compared at lambda = 0.01 only; what the two switches do together was not run",
        "c": "the other way round: without a pull only the cold start brings the policies back together",
        "d": "nothing says that effects grow with lambda; the pair has to be run",
    }),
}  # fmt: skip


# ---- 13: when personalization helps
def _stars(cells, p, most=0.05, exceed=False):
    return next(k for k in range(cells + 2) if binom.sf(k if exceed else k - 1, cells, p) <= most)


_VARIANCES = [(0.25, 0.1, 0.3), (4.0, 1.5, 0.8), (0.0, 2.0, 0.5), (3, 0, 0), (1.0, 0.5, 1)]
EXERCISES |= {
    "13.1": function(lambda h2, v, w: w**2 * v + (1 - w) ** 2 * h2, _VARIANCES, lambda h2, v, w: {
        "the weights enter squared: they multiply errors, and it is their squares that are averaged":
            w * v + (1 - w) * h2,
        "the other way round: the task's own estimate has weight w and variance v": (1 - w) ** 2 * v + w**2 * h2,
        "that squares a sum: the two errors are independent, so their product averages to 0":
            (w * v**0.5 + (1 - w) * h2**0.5) ** 2,
        "h2 and v are variances already: do not square them": w**2 * v**2 + (1 - w) ** 2 * h2**2,
    }, "the error"),
    "13.2": function(lambda h2, v: h2 / (h2 + v), [(0.25, 0.1), (4.0, 1.5), (0.0, 2.0), (3, 0), (1, 1)], lambda h2, v: {
        "that is the weight of the mean; the own weight is what is left": v / (h2 + v),
        "h2 and v are variances already": h2**2 / (h2**2 + v**2),
        "that is h / (h + sqrt v): weigh by variances, not by standard deviations": h2**0.5 / (h2**0.5 + v**0.5),
        "that is lambda, or one over it; the weight is 1 / (1 + lambda)": v / h2 if h2 else float("inf"),
    }, "the weight"),
    "13.3": choice("b", {
        "a": "the name is no argument: look at the row h = 0.75, where the first number is the largest",
        "c": "look at the second numbers of that row: one policy for all cannot do it, however many tasks",
        "d": "look again: pMeta's interval against learning alone lies below 0 in several cells of that row",
    }),
    "13.4": function(_stars, [(20, 0.025), (60, 0.025), (1, 0.5), (5, 0.0), (100, 0.3)], lambda cells, p: {
        "that many or *more*: P(X >= k) is `binom.sf(k - 1, ...)`; yours is one too small":
            _stars(cells, p, exceed=True),
        "that is the mean number of stars; ask for the number that chance seldom reaches": cells * p,
        "not 2.5 %: only many stars are of interest, one side": _stars(cells, p, most=0.025),
    }, "the number"),
}  # fmt: skip


# ---- 14: by gradient or by memory
def _meta_gradient(theta, a, c, s, factor=-1.0, at=1.0, combine=np.mean):
    adapted = theta + at * s * a * (c - theta)
    return float(combine((1 + factor * s * a) * a * (c - adapted)))


def _to_go(reward, ended, gamma, cut=False, late=False):
    out, following = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        following = 0.0 if cut and ended[t] else following
        out[t] = gamma * following if late else reward[t] + gamma * following
        following = reward[t] + gamma * following
    return out


_TASKS = [(0.3, np.array([1.0, 3]), np.array([-1.0, 0.5]), 0.1), (-1.2, np.array([0.5, 2, 1.5]), np.arange(3.0), 0.3)]
_TASKS += [(0.5, np.array([2.0]), np.array([1.5]), 0.0)]  # one task, and no step at all
_TRIALS = [(np.array([-3.0, -1, -2, -0.5, -4, -1]), np.array([0, 0, 1, 0, 0, 1], bool), 0.9),
           (np.array([1.0, 2, -1, 5]), np.array([0, 1, 0, 1], bool), 0.5),
           (np.array([1, 2, 3]), np.array([0, 0, 1], bool), 0.5)]  # fmt: skip
EXERCISES |= {
    "14.1": function(_meta_gradient, _TASKS, lambda theta, a, c, s: {
        "that is first-order MAML: 1 - s a stands there once, from the adapted point, and must come a second time, by "
        "differentiating the step": _meta_gradient(theta, a, c, s, factor=0.0),
        "the Hessian is -a: the factor is 1 - s a": _meta_gradient(theta, a, c, s, factor=1.0),
        "that is joint learning's gradient: no step is taken at all":
            _meta_gradient(theta, a, c, s, factor=0.0, at=0.0),
        "the mean over tasks, not the sum": _meta_gradient(theta, a, c, s, combine=np.sum),
    }, "the gradient"),
    "14.2": choice("b", {
        "a": "two policies differ in more than a step: their starts differ too",
        "c": "a second step is another question; ask first whether the first one did anything",
        "d": "the curve of the adapted policy alone cannot tell start from step either",
    }),
    "14.3": function(_to_go, _TRIALS, lambda reward, ended, gamma: {
        "cut at the end of each episode, exploring in the first never pays: the trial is one piece":
            _to_go(reward, ended, gamma, cut=True),
        "gamma is missing": _to_go(reward, ended, 1.0),
        "the step's own reward belongs to its return": _to_go(reward, ended, gamma, late=True),
        "that sums the rewards so far; what counts is what comes": np.cumsum(reward),
    }, "the returns"),
}  # fmt: skip
