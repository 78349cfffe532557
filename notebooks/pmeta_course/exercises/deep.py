"""Exercises of notebooks 00, 06, 07 and 12: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np
from scipy.stats import trim_mean

from pmeta_course.exercises.checkers import choice, function, normal
from pmeta_lib import moreau


# ---- 00: the words of the course
def _cosine(g, h):
    return float((g * h).sum() / np.sqrt((g**2).sum() * (h**2).sum()))


_PAIRS = [(normal(s, *shape), normal(s + 1, *shape)) for s, shape in ((0, (3, 2)), (5, (4,)), (9, (2, 3, 2)))]
_PRICES = [(*pair, lam) for pair, lam in zip([*_PAIRS, (np.ones((2, 2)),) * 2], (0.3, 2.0, 7.0, 5.0))]
_ANGLES = [(np.array([[1, 0], [0, 0]]), np.array(h)) for h in ([[0, 3], [1, 0]], [[-2, 0], [0, 0]])]
EXERCISES = {
    "00.1": choice("b", {
        "a": "a soft spring (small lambda) would do that; lambda = 100 makes the spring stiff",
        "c": "look again with the slider at the right end: the personalized policies do move",
        "d": "lambda changes how far policies may differ, not what the arms pay",
    }),
    "00.2": function(lambda x, theta, lam: lam / 2 * ((x - theta) ** 2).sum(), _PRICES, lambda x, theta, lam: {
        "the factor 1/2 is missing": lam * ((x - theta) ** 2).sum(),
        "lambda is missing": ((x - theta) ** 2).sum() / 2,
        "that is the distance itself; the price is its square": lam / 2 * np.linalg.norm(x - theta),
        "sum over all parameters instead of taking their mean": lam / 2 * ((x - theta) ** 2).mean(),
        "these are absolute differences; square them": lam / 2 * np.abs(x - theta).sum(),
    }, "the price"),
    "00.3": function(_cosine, _PAIRS + _ANGLES, lambda g, h: {
        "that is the inner product; divide by both lengths": (g * h).sum(),
        "divide by the lengths, not by their squares": (g * h).sum() / ((g**2).sum() * (h**2).sum()),
        "the sign carries the answer: no absolute value": abs(_cosine(g, h)),
        "that says whether they conflict; give the cosine itself": (g * h).sum() < 0,
    }, "the cosine"),
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


_DENSITY = [(normal(s, 5, 2), 0.4 * normal(s + 1, 5, 2), normal(s + 2, 5, 2)) for s in (0, 4)]
_TD = [(r.normal(size=6), r.permutation([0, 1, 0, 0, 1, 0.0]), r.normal(size=(2, 6)) * 5, r.normal(size=6), a, g)
       for r, a, g in zip(map(np.random.default_rng, range(3)), (0.2, 1.3, 0.0), (0.99, 0.9, 0.5))]  # fmt: skip
_ENTROPY = [(normal(s, 8) + 0.4, target) for s, target in enumerate((-1.0, -6.0, -2.5))]
_POLYAK = [(normal(s, 3, 4), normal(s + 1, 3, 4), rate) for s, rate in ((0, 0.005), (3, 0.3), (5, 0.0), (7, 1.0))]
EXERCISES |= {
    "06.1": function(_log_density, _DENSITY, lambda m, s, u: {
        "the correction for tanh is missing: squashing stretches and compresses probability":
            _log_density(m, s, u, correction=0.0),
        "the correction has the wrong sign: where tanh is flat, density piles up": _log_density(m, s, u, -1.0),
        "log std is missing from the normal density": _log_density(m, s, u, scale=False),
        "sum over the action's dimensions: they are independent, log densities add":
            _log_density(m, s, u, summed=False),
        "the correction takes the point before squashing, u; tanh was applied twice":
            _log_density(m, s, u, 0.0) - np.log(1 - np.tanh(np.tanh(u)) ** 2).sum(-1),
    }, "the log density"),
    "06.2": function(_td, _TD, lambda *a: {
        "take the smaller of the two critics: the larger one is the overestimate": _td(*a, pick=np.max),
        "take the smaller of the two critics, not their mean": _td(*a, pick=np.mean),
        "the entropy bonus has the wrong sign: -alpha log pi rewards uncertainty": _td(*a, sign=1.0),
        "the entropy bonus -alpha log pi is missing": _td(*a, sign=0.0),
        "after a true ending nothing follows: multiply by (1 - terminated)": _td(*a, ends=False),
        "gamma is missing": _td(*a[:-1], 1.0),
    }, "the target"),
    "06.3": function(lambda log_prob, target: -log_prob.mean() - target, _ENTROPY, lambda log_prob, target: {
        "the target entropy has the wrong sign: the loss holds log pi + target": -log_prob.mean() + target,
        "the target entropy is missing": -log_prob.mean(),
        "take the mean over the batch, not the sum": -(log_prob + target).sum(),
    }, "the gradient"),
    "06.4": function(lambda target, critic, rate: (1 - rate) * target + rate * critic, _POLYAK, lambda t, c, u: {
        "the shares are exchanged: the target would jump onto the critic": u * t + (1 - u) * c,
        "the old target must keep the share 1 - polyak": t + u * c,
        "that is the critic itself: a target that does not lag is none": c,
        "towards the critic, not away from it": t - u * (c - t),
    }, "the new target"),
}  # fmt: skip


# ---- 07: pMeta-SAC
def _round(theta, actors, eta_lam, beta, mean=np.mean):
    w = theta - eta_lam * (theta - actors)
    return (1 - beta) * theta + beta * mean(w, axis=0)


_ACTORS = [(normal(s, 3, 5), normal(s + 1, 3, 5), normal(s + 2, 5), lam) for s, lam in ((0, 0.1), (6, 2.0), (8, 0.0))]
_STEPS = [(normal(s, 2, 4), normal(s + 1, 2, 4), lam, rate)
          for s, lam, rate in ((0, 3.0, 0.1), (5, 100.0, 1.0), (7, 0.0, 1.0))]  # fmt: skip
_ROUNDS = [(normal(s, 5), normal(s + 1, 4, 5), e, b) for s, e, b in ((0, 0.7, 0.4), (3, 1.0, 0.9), (5, 0.5, 0.0))]
EXERCISES |= {
    "07.1": function(lambda g, a, w, lam: g + lam * (a - w), _ACTORS, lambda g, a, w, lam: {
        "the proximal term has the wrong sign: it would push the actors away from w": g - lam * (a - w),
        "the derivative of (lambda/2) d^2 is lambda d: the 1/2 cancels": g + lam / 2 * (a - w),
        "the proximal term is missing": g,
        "lambda is missing": g + a - w,
        "the actors are pulled to w, not to their own mean": g + lam * (a - a.mean(0)),
    }, "the gradient"),
    "07.3": function(moreau.implicit_step, _STEPS, lambda y, w, lam, rate: {
        "that is the explicit step: it overshoots as soon as rate * lambda > 1": y - rate * lam * (y - w),
        "divide by 1 + rate * lambda: the weights of y and w must add to 1": y + rate * lam * w,
        "y and w are exchanged": moreau.implicit_step(w, y, lam, rate),
        "the learning rate is missing: it is rate * lambda everywhere": moreau.implicit_step(y, w, lam, 1.0),
    }, "the step"),
    "07.2": function(_round, _ROUNDS, lambda t, a, e, b: {
        "eta * lambda is missing: w would be put onto the actor": _round(t, a, 1.0, b),
        "beta is missing: theta would jump onto the mean of the w": _round(t, a, e, 1.0),
        "beta and 1 - beta are exchanged": _round(t, a, e, 1 - b),
        "take the mean of the w over tasks, not the sum": _round(t, a, e, b, np.sum),
        "w moves towards the actor: w - eta lambda (w - actor)": _round(t, a, -e, b),
    }, "the new theta"),
    "07.4": choice("a", {
        "b": "the other learners have networks of the same size and learn; size is not what joint lacks",
        "c": "joint sees as many transitions of each task as the others do",
        "d": "its actor explores as the others do; what differs is what the data ask for",
    }),
}  # fmt: skip


# ---- 12: verdicts
def _improvement(x, y, tie=0.5):
    return float((x[:, None] > y[None, :]).mean() + tie * (x[:, None] == y[None, :]).mean())


_INTERVALS = [(0.6, 0.9, 0.5), (0.4, 0.9, 0.5), (0.1, 0.4, 0.5), (-0.3, 0.2, 0.0), (0.2, 0.7, 0.5), (0.82, 1.4, 0.8)]
_INTERVALS += [(0.5, 0.9, 0.5), (0.1, 0.5, 0.5)]  # they touch the threshold, and so contain it
_SCORES = [(np.round(0.3 + normal(s, n)), np.round(normal(s + 1, m))) for s, n, m in ((0, 7, 7), (2, 9, 9), (4, 4, 9))]
_RUNS = [(np.array([*normal(s, 11), 40.0]),) for s in (0, 1)]
_RUNS += [(np.arange(n)[::-1] ** 2,) for n in (8, 11, 3)]  # of three scores, none is dropped
EXERCISES |= {
    "12.1": function(lambda low, high, threshold: 1 if low > threshold else -1 if high < threshold else 0, _INTERVALS,
                     lambda low, high, threshold: {
        "the middle of the interval decides nothing: the whole interval must lie on one side":
            1 if (low + high) / 2 > threshold else -1,
        "the upper end alone is the optimist's test: the whole interval must lie above": 1 if high > threshold else -1,
        "an interval across the threshold is undecided (0), not a refutation (-1)": 1 if low > threshold else -1,
        "an interval that ends exactly at the threshold contains it: undecided (0)":
            1 if low >= threshold else -1 if high <= threshold else 0,
        "an interval below the threshold is a refutation (-1), not merely undecided (0)": int(low > threshold),
    }, "the verdict"),
    "12.2": function(_improvement, _SCORES, lambda x, y: {
        "a tie counts one half, not zero": _improvement(x, y, 0.0),
        "a tie counts one half, not a whole win": _improvement(x, y, 1.0),
        "compare every run of x with every run of y, not run k with run k":
            np.mean([(a > b) + 0.5 * (a == b) for a, b in zip(x, y)]),
        "that is the probability that y beats x": _improvement(y, x),
        "comparing the means says which is larger on average, not how often": x.mean() > y.mean(),
    }, "the probability"),
    "12.3": function(lambda scores: trim_mean(scores, 0.25), _RUNS, lambda scores: {
        "that is the plain mean: one outlier moves it": scores.mean(),
        "that is the median: it uses one or two runs of all": np.median(scores),
        "sort the scores first: the outer quarters are those of the values":
            scores[scores.size // 4 : scores.size - scores.size // 4].mean(),
        "with fewer than four scores nothing is dropped, but `scores[0:-0]` is empty":
            trim_mean(scores, 0.25) if scores.size > 3 else np.nan,
        "drop a quarter at each end, not only the lowest": np.sort(scores)[scores.size // 4 :].mean(),
        "drop a quarter at each end, not only the highest": np.sort(scores)[: scores.size - scores.size // 4].mean(),
    }, "the interquartile mean"),
    "12.4": choice("b", {
        "a": "averaging over seeds does not undo it: every single seed's maximum is already too high",
        "c": "it does not cancel: a noisier or more often evaluated learner gains more from its maximum",
        "d": "more evaluations make it worse: the maximum of more noisy numbers is larger",
    }),
}  # fmt: skip
