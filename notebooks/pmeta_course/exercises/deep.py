"""Exercises of notebooks 00, 06, 07 and 12: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np

from pmeta_course.exercises.checkers import choice, function
from pmeta_lib import moreau

_rng = np.random.default_rng


# ---- 00: the words of the course


def _price(x, theta, lam):
    return lam / 2 * float(((x - theta) ** 2).sum())


def _cosine(g, h):
    return float((g * h).sum() / np.sqrt((g**2).sum() * (h**2).sum()))


_PAIRS = [(_rng(s).normal(size=(3, 2)), _rng(s + 1).normal(size=(3, 2))) for s in (0, 5, 9)]
_ANGLES = [(np.array([[1, 0], [0, 0]]), np.array(h)) for h in ([[0, 3], [1, 0]], [[-2, 0], [0, 0]])]
FIRST = {
    "00.1": choice("b", {
        "a": "a soft spring (small lambda) would do that; lambda = 100 makes the spring stiff",
        "c": "look again with the slider at the right end: the personalized policies do move",
        "d": "lambda changes how far policies may differ, not what the arms pay",
    }),
    "00.2": function(_price, [*[(*pair, lam) for pair, lam in zip(_PAIRS, (0.3, 2.0, 7.0))],
                              (np.ones((2, 2)), np.ones((2, 2)), 5.0)], {
        "the factor 1/2 is missing": lambda x, theta, lam: 2 * _price(x, theta, lam),
        "lambda is missing": lambda x, theta, lam: _price(x, theta, 1.0),
        "that is the distance itself; the price is its square": lambda x, theta, lam: float(
            lam / 2 * np.linalg.norm(x - theta)),
        "sum over all parameters instead of taking their mean": lambda x, theta, lam: _price(x, theta, lam) / x.size,
        "these are absolute differences; square them": lambda x, theta, lam: float(lam / 2 * np.abs(x - theta).sum()),
    }, ("the price",)),
    "00.3": function(_cosine, _PAIRS + _ANGLES, {
        "that is the inner product; divide by both lengths": lambda g, h: float((g * h).sum()),
        "divide by the lengths, not by their squares": lambda g, h: float(
            (g * h).sum() / ((g**2).sum() * (h**2).sum())),
        "the sign carries the answer: no absolute value": lambda g, h: abs(_cosine(g, h)),
        "that says whether they conflict; give the cosine itself": lambda g, h: float((g * h).sum() < 0),
    }, ("the cosine",)),
    "00.4": choice("c", {
        "a": "the Moreau envelope, the squared distance, is our formulation of the abstract's constraint",
        "b": "no such number is known to this course: only the abstract is, and it holds none",
        "d": "our own runs say that; and only where noise and differences between the tasks are moderate",
    }),
}  # fmt: skip


# ---- 06: soft actor-critic


def _log_density(mean, log_std, u, correction=1.0, scale=True, summed=True):
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - 0.5 * np.log(2 * np.pi) - (log_std if scale else 0.0)
    terms = normal - correction * np.log(1 - np.tanh(u) ** 2)
    return terms.sum(-1) if summed else terms


def _td(reward, terminated, q, log_prob, alpha, gamma, pick=np.min, sign=-1.0, ends=True):
    soft = pick(q, axis=0) + sign * alpha * log_prob
    return reward + gamma * ((1 - terminated) if ends else 1.0) * soft


def _temperature_gradient(log_prob, target, sign=1.0):
    return -float(log_prob.mean() + sign * target)


_DENSITY = [(_rng(s).normal(size=(5, 2)), 0.4 * _rng(s + 1).normal(size=(5, 2)), _rng(s + 2).normal(size=(5, 2)))
            for s in (0, 4)]  # fmt: skip
_TD = [(r.normal(size=6), np.array([0, 1, 0, 0, 1, 0.0]), r.normal(size=(2, 6)) * 5, r.normal(size=6), a, g)
       for r, a, g in [(_rng(0), 0.2, 0.99), (_rng(1), 1.3, 0.9), (_rng(2), 0.0, 0.5)]]  # fmt: skip
_ENTROPY = [(_rng(s).normal(size=8) + 0.4, target) for s, target in ((0, -1.0), (1, -6.0), (2, -2.5))]
_POLYAK = [(_rng(s).normal(size=(3, 4)), _rng(s + 1).normal(size=(3, 4)), rate)
           for s, rate in ((0, 0.005), (3, 0.3), (5, 0.0), (7, 1.0))]  # fmt: skip
SIXTH = {
    "06.1": function(_log_density, _DENSITY, {
        "the correction for tanh is missing: squashing stretches and compresses probability":
            lambda m, s, u: _log_density(m, s, u, correction=0.0),
        "the correction has the wrong sign: where tanh is flat, density piles up":
            lambda m, s, u: _log_density(m, s, u, -1.0),
        "log std is missing from the normal density": lambda m, s, u: _log_density(m, s, u, scale=False),
        "sum over the action's dimensions: they are independent, log densities add":
            lambda m, s, u: _log_density(m, s, u, summed=False),
        "the correction takes the point before squashing, u; tanh was applied twice":
            lambda m, s, u: _log_density(m, s, u, 0.0) - np.log(1 - np.tanh(np.tanh(u)) ** 2).sum(-1),
    }, ("the log density",)),
    "06.2": function(_td, _TD, {
        "take the smaller of the two critics: the larger one is the overestimate": lambda *a: _td(*a, pick=np.max),
        "take the smaller of the two critics, not their mean": lambda *a: _td(*a, pick=np.mean),
        "the entropy bonus has the wrong sign: -alpha log pi rewards uncertainty": lambda *a: _td(*a, sign=1.0),
        "the entropy bonus -alpha log pi is missing": lambda *a: _td(*a, sign=0.0),
        "after a true ending nothing follows: multiply by (1 - terminated)": lambda *a: _td(*a, ends=False),
        "gamma is missing": lambda *a: _td(*a[:-1], 1.0),
    }, ("the target",)),
    "06.3": function(_temperature_gradient, _ENTROPY, {
        "the target entropy has the wrong sign: the loss holds log pi + target":
            lambda log_prob, target: _temperature_gradient(log_prob, target, -1.0),
        "the target entropy is missing": lambda log_prob, target: _temperature_gradient(log_prob, 0.0),
        "take the mean over the batch, not the sum": lambda log_prob, target: -float((log_prob + target).sum()),
    }, ("the gradient",)),
    "06.4": function(lambda target, critic, rate: (1 - rate) * target + rate * critic, _POLYAK, {
        "the shares are exchanged: the target would jump onto the critic": lambda t, c, u: u * t + (1 - u) * c,
        "the old target must keep the share 1 - polyak": lambda t, c, u: t + u * c,
        "that is the critic itself: a target that does not lag is none": lambda t, c, u: c,
        "towards the critic, not away from it": lambda t, c, u: t - u * (c - t),
    }, ("the new target",)),
}  # fmt: skip


# ---- 07: pMeta-SAC


def _pull(gradient, actors, w, lam):
    return gradient + lam * (actors - w)


def _round(theta, actors, eta_lam, beta, mean=np.mean):
    w = theta - eta_lam * (theta - actors)
    return (1 - beta) * theta + beta * mean(w, axis=0)


_ACTORS = [(_rng(s).normal(size=(3, 5)), _rng(s + 1).normal(size=(3, 5)), _rng(s + 2).normal(size=5), lam)
           for s, lam in ((0, 0.1), (6, 2.0), (8, 0.0))]  # fmt: skip
_STEPS = [(_rng(s).normal(size=(2, 4)), _rng(s + 1).normal(size=(2, 4)), lam, rate)
          for s, lam, rate in ((0, 3.0, 0.1), (5, 100.0, 1.0), (7, 0.0, 1.0))]  # fmt: skip
_ROUNDS = [(_rng(s).normal(size=5), _rng(s + 1).normal(size=(4, 5)), e, b)
           for s, e, b in ((0, 0.7, 0.4), (3, 1.0, 0.9), (5, 0.5, 0.0))]  # fmt: skip
SEVENTH = {
    "07.1": function(_pull, _ACTORS, {
        "the proximal term has the wrong sign: it would push the actors away from w":
            lambda g, a, w, lam: _pull(g, a, w, -lam),
        "the derivative of (lambda/2) d^2 is lambda d: the 1/2 cancels": lambda g, a, w, lam: _pull(g, a, w, lam / 2),
        "the proximal term is missing": lambda g, a, w, lam: g,
        "lambda is missing": lambda g, a, w, lam: _pull(g, a, w, 1.0),
        "the actors are pulled to w, not to their own mean": lambda g, a, w, lam: _pull(g, a, a.mean(0), lam),
    }, ("the gradient",)),
    "07.3": function(lambda y, w, lam, rate: moreau.implicit_step(y, w, lam, rate), _STEPS, {
        "that is the explicit step: it overshoots as soon as rate * lambda > 1":
            lambda y, w, lam, rate: y - rate * lam * (y - w),
        "divide by 1 + rate * lambda: the weights of y and w must add to 1": lambda y, w, lam, rate: y + rate * lam * w,
        "y and w are exchanged": lambda y, w, lam, rate: moreau.implicit_step(w, y, lam, rate),
        "the learning rate is missing: it is rate * lambda everywhere":
            lambda y, w, lam, rate: moreau.implicit_step(y, w, lam, 1.0),
    }, ("the step",)),
    "07.2": function(_round, _ROUNDS, {
        "eta * lambda is missing: w would be put onto the actor": lambda t, a, e, b: _round(t, a, 1.0, b),
        "beta is missing: theta would jump onto the mean of the w": lambda t, a, e, b: _round(t, a, e, 1.0),
        "beta and 1 - beta are exchanged": lambda t, a, e, b: _round(t, a, e, 1 - b),
        "take the mean of the w over tasks, not the sum": lambda t, a, e, b: _round(t, a, e, b, np.sum),
        "w moves towards the actor: w - eta lambda (w - actor)": lambda t, a, e, b: _round(t, a, -e, b),
    }, ("the new theta",)),
    "07.4": choice("a", {
        "b": "the other learners have networks of the same size and learn; size is not what joint lacks",
        "c": "joint sees as many transitions of each task as the others do",
        "d": "its actor explores as the others do; what differs is what the data ask for",
    }),
}  # fmt: skip


# ---- 12: verdicts


def _verdict(low, high, threshold):
    return 1 if low > threshold else -1 if high < threshold else 0


def _improvement(x, y, tie=0.5):
    return float((x[:, None] > y[None, :]).mean() + tie * (x[:, None] == y[None, :]).mean())


def _iqm(scores):
    return float(np.sort(scores)[scores.size // 4 : scores.size - scores.size // 4].mean())


_INTERVALS = [
    (0.6, 0.9, 0.5),
    (0.4, 0.9, 0.5),
    (0.1, 0.4, 0.5),
    (-0.3, 0.2, 0.0),
    (0.2, 0.7, 0.5),
    (0.82, 1.4, 0.8),
    (0.5, 0.9, 0.5),
    (0.1, 0.5, 0.5),
]  # the last two touch the threshold, and so contain it
_SCORES = [(np.round(_rng(s).normal(0.3, 1, n), 0), np.round(_rng(s + 1).normal(0, 1, n), 0))
           for s, n in ((0, 7), (2, 9))]  # fmt: skip
_RUNS = [(np.array([*_rng(s).normal(size=11), 40.0]),) for s in (0, 1)]
_RUNS += [(np.arange(n)[::-1] ** 2,) for n in (8, 11, 3)]  # of three scores, none is dropped
TWELFTH = {
    "12.1": function(_verdict, _INTERVALS, {
        "the middle of the interval decides nothing: the whole interval must lie on one side":
            lambda low, high, threshold: 1 if (low + high) / 2 > threshold else -1,
        "the upper end alone is the optimist's test: the whole interval must lie above":
            lambda low, high, threshold: 1 if high > threshold else -1,
        "an interval across the threshold is undecided (0), not a refutation (-1)":
            lambda low, high, threshold: 1 if low > threshold else -1,
        "an interval that ends exactly at the threshold contains it: undecided (0)":
            lambda low, high, threshold: 1 if low >= threshold else -1 if high <= threshold else 0,
        "an interval below the threshold is a refutation (-1), not merely undecided (0)":
            lambda low, high, threshold: int(low > threshold),
    }, ("the verdict",)),
    "12.2": function(_improvement, _SCORES, {
        "a tie counts one half, not zero": lambda x, y: _improvement(x, y, 0.0),
        "a tie counts one half, not a whole win": lambda x, y: _improvement(x, y, 1.0),
        "compare every run of x with every run of y, not run k with run k":
            lambda x, y: float((x > y).mean() + 0.5 * (x == y).mean()),
        "that is the probability that y beats x": lambda x, y: _improvement(y, x),
        "comparing the means says which is larger on average, not how often": lambda x, y: float(x.mean() > y.mean()),
    }, ("the probability",)),
    "12.3": function(_iqm, _RUNS, {
        "that is the plain mean: one outlier moves it": lambda scores: float(scores.mean()),
        "that is the median: it uses one or two runs of all": lambda scores: float(np.median(scores)),
        "sort the scores first: the outer quarters are those of the values": lambda scores: float(
            scores[scores.size // 4 : scores.size - scores.size // 4].mean()),
        "with fewer than four scores nothing is dropped, but `scores[0:-0]` is empty": lambda scores: (
            _iqm(scores) if scores.size > 3 else np.nan),
        "drop a quarter at each end, not only the lowest": lambda scores: float(
            np.sort(scores)[scores.size // 4 :].mean()),
        "drop a quarter at each end, not only the highest": lambda scores: float(
            np.sort(scores)[: scores.size - scores.size // 4].mean()),
    }, ("the interquartile mean",)),
    "12.4": choice("b", {
        "a": "averaging over seeds does not undo it: every single seed's maximum is already too high",
        "c": "it does not cancel: a noisier or more often evaluated learner gains more from its maximum",
        "d": "more evaluations make it worse: the maximum of more noisy numbers is larger",
    }),
}  # fmt: skip

EXERCISES = FIRST | SIXTH | SEVENTH | TWELFTH
