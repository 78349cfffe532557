"""Notebooks 08 and 09: right answers, by other means than the checkers' where there are any, and planted
mistakes, each with words of its diagnosis."""

import numpy as np


def final(steps, returns, late=lambda t, last: 4 * t > 3 * last):
    kept = [x for t, x in zip(steps, returns) if late(t, steps[-1])]
    return sum(kept) / len(kept)


def error_of_the_mean(values):
    """By the sum of squares, unlike the checker."""
    values = list(values)
    mean = sum(values) / len(values)
    return np.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1) / len(values))


def cheetah(velocity, action, direction):
    return np.array([direction * v - 0.05 * np.dot(a, a) for v, a in zip(velocity, action)])


RIGHT = {
    "08.1": final,
    "08.2": lambda x, low, one: (x - low) / np.mean([y - low for y in one]),
    "08.3": lambda x: error_of_the_mean(run.mean() for run in x),
    "08.4": "b",
    "09.1": cheetah,
    "09.2": lambda start, end, energy, direction, dt: (end - start) * direction / dt - energy / 20,
    "09.3": "c",
    "09.4": lambda seconds, steps, target, seeds, learners: seeds * learners * seconds * (target / steps) / 60 / 60,
}

WRONG = [
    ("08.1", lambda steps, x: max(x), "best evaluation"),
    ("08.1", lambda steps, x: x[-1], "last evaluation alone"),
    ("08.1", lambda steps, x: np.mean(x), "whole curve"),
    ("08.1", lambda steps, x: final(steps, x, lambda t, last: 4 * t >= 3 * last), "exactly three quarters"),
    ("08.1", lambda steps, x: np.mean(x[-(len(x) // 4) :]), "not of the evaluations"),
    ("08.1", lambda steps, x: final(steps, x, lambda t, last: 4 * t <= 3 * last), "first three quarters"),
    ("08.1", lambda steps, x: x[steps > 0.75 * steps.max()], "shape"),
    ("08.2", lambda x, low, one: (x - low) / np.mean(one), "below the line"),
    ("08.2", lambda x, low, one: x / np.mean(one), "plain ratio"),
    ("08.2", lambda x, low, one: (one.mean() - x) / (one.mean() - low), "exchanged"),
    ("08.2", lambda x, low, one: (x - low) / (one - low), "does not belong to run k"),
    ("08.2", lambda x, low, one: (x - low) / (max(one) - low), "not the best"),
    ("08.2", lambda x, low, one: x - low, "not yet divided"),
    ("08.2", lambda x, low, one: np.mean((x - low) / (one.mean() - low)), "shape"),
    ("08.3", lambda x: error_of_the_mean(x.ravel()), "episodes of one run"),
    ("08.3", lambda x: error_of_the_mean(x.mean(-1).ravel()), "tasks of one run"),
    ("08.3", lambda x: error_of_the_mean(x.mean((1, 2))) * np.sqrt(len(x)), "root of n"),
    ("08.3", lambda x: x.mean((1, 2)).std() / np.sqrt(len(x)), "ddof=1"),
    ("08.3", lambda x: error_of_the_mean(x.mean((1, 2))) / np.sqrt(len(x)), "not by n"),
    ("08.4", "a", "not among five"),
    ("08.4", "c", "computed correctly"),
    ("08.4", "D", "never overlap"),
    ("09.1", lambda v, a, d: d * v, "control cost is missing"),
    ("09.1", lambda v, a, d: 2 * cheetah(v, a, d) - d * v, "gymnasium's own"),
    ("09.1", lambda v, a, d: d * v - 0.05 * (a**2).mean(1), "do not average"),
    ("09.1", lambda v, a, d: d * v - 0.05 * abs(a).sum(1), "square the actions"),
    ("09.1", lambda v, a, d: d * (v - 0.05 * (a**2).sum(1)), "velocity alone"),
    ("09.1", lambda v, a, d: cheetah(v, a, 1), "direction is missing"),
    ("09.1", lambda v, a, d: d * v + 0.05 * (a**2).sum(1), "wrong sign"),
    ("09.1", lambda v, a, d: cheetah(abs(v), a, 1), "no absolute velocity"),
    ("09.1", lambda v, a, d: cheetah(v, a, d).sum(), "shape"),
    ("09.2", lambda start, end, energy, d, dt: d * (end - start) - 0.05 * energy, "divide by dt"),
    ("09.2", lambda start, end, energy, d, dt: d * (end - start) * dt - 0.05 * energy, "do not multiply"),
    ("09.2", lambda start, end, energy, d, dt: d * end / dt - 0.05 * energy, "start counts"),
    ("09.2", lambda start, end, energy, d, dt: d * (end - start) / dt, "control cost is missing"),
    ("09.2", lambda start, end, energy, d, dt: d * (end - start) / dt - energy, "0.05 a unit"),
    ("09.2", lambda start, end, energy, d, dt: (end - start) / dt - 0.05 * energy, "direction is missing"),
    ("09.2", lambda start, end, energy, d, dt: d * ((end - start) / dt - 0.05 * energy), "distance alone"),
    ("09.3", "a", "one episode of one seed"),
    ("09.3", "b", "return is"),
    ("09.3", "d", "exists"),
    ("09.4", lambda s, n, t, seeds, k: s * t / n * seeds * k, "seconds"),
    ("09.4", lambda s, n, t, seeds, k: s * t / n * seeds * k / 60, "minutes"),
    ("09.4", lambda s, n, t, seeds, k: s * t / n * k / 3600, "every seed"),
    ("09.4", lambda s, n, t, seeds, k: s * t / n * seeds / 3600, "every learner"),
    ("09.4", lambda s, n, t, seeds, k: s * seeds * k / 3600, "budget grows"),
    ("09.4", lambda s, n, t, seeds, k: s * n / t * seeds * k / 3600, "exchanged"),
]
