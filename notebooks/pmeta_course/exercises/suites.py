"""Exercises of notebooks 08 and 09: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np

from pmeta_course.exercises.checkers import choice, function, normal


# ---- 08: from curves to scores
def _standard_error(x, ddof=1):
    return float(x.std(ddof=ddof) / np.sqrt(x.size))


# evaluations at uneven steps, one of them at three quarters exactly, and not from 0 on
_UNEVEN = ([0, 10, 20, 80, 300, 340, 360, 380, 400], [200, 400, 600, 640, 700, 790, 800])
_RUNS = [(np.array(steps), -300 + 60 * normal(s, len(steps))) for s, steps in enumerate(_UNEVEN)]
_FAMILIES = [(low + 700 + 90 * normal(s, 5), low, low + 900 + 60 * normal(s + 1, 5))
             for s, low in ((0, -1200.0), (4, -20.0))]  # fmt: skip
_RETURNS = [(normal(s, n, 1, 1) + 0.4 * normal(s + 1, n, k, e),) for s, n, k, e in ((0, 5, 3, 4), (3, 10, 2, 5))]
EXERCISES = {
    "08.1": function(lambda steps, x: x[steps > 0.75 * steps.max()].mean(), _RUNS, lambda steps, x: {
        "that is the best evaluation: a maximum of noisy numbers is too high": x.max(),
        "that is the last evaluation alone: average all of the last quarter, it is far less noisy": x[-1],
        "that is the mean of the whole curve; only the last quarter counts": x.mean(),
        "the evaluation at exactly three quarters does not count: the steps must lie above it":
            x[steps >= 0.75 * steps.max()].mean(),
        "75 % of the last step, not of the way to it from the first evaluation":
            x[steps > steps.min() + 0.75 * np.ptp(steps)].mean(),
        "a quarter of the steps, not of the evaluations: they need not be evenly spaced": x[-(len(x) // 4) :].mean(),
        "that is the first three quarters; take the last": x[steps <= 0.75 * steps.max()].mean(),
    }, "the final return"),
    "08.2": function(lambda x, low, one: (x - low) / (one.mean() - low), _FAMILIES, lambda x, low, one: {
        "subtract the random policy's return below the line too: 1 must be the reference": (x - low) / one.mean(),
        "subtract the random policy's return: returns may be negative, a plain ratio has no meaning": x / one.mean(),
        "the ends are exchanged: random is 0, the reference is 1": (one.mean() - x) / (one.mean() - low),
        "use the mean of the reference's runs: run k of one learner does not belong to run k of the other":
            (x - low) / (one - low),
        "use the mean of the reference's runs, not the best of them": (x - low) / (one.max() - low),
        "that is the distance to random, not yet divided by that of the reference": x - low,
    }, "the scores"),
    "08.3": function(lambda x: _standard_error(x.mean((1, 2))), _RETURNS, lambda x: {
        "episodes of one run are not independent runs: average them first, then count seeds":
            _standard_error(x.ravel()),
        "tasks of one run are not independent runs: average over them too, then count seeds":
            _standard_error(x.mean(2).ravel()),
        "that is the scatter of the runs; the mean of n runs scatters less, by the root of n":
            x.mean((1, 2)).std(ddof=1),
        "divide by n - 1, not by n, inside the standard deviation (ddof=1)": _standard_error(x.mean((1, 2)), 0),
        "divide by the root of n, not by n": x.mean((1, 2)).std(ddof=1) / len(x),
    }, "the standard error"),
    "08.4": choice("b", {
        "a": "five seeds cannot show it: an event that happens in one run of ten is often not among five",
        "c": "it is computed correctly: every resample of five winners and five losers has the same winner",
        "d": "whether the task is easy does not matter; both learners could do well and still never overlap",
    }),
}  # fmt: skip


# ---- 09: rewards, films and costs
def _reward(velocity, action, direction, weight=0.05):
    return direction * velocity - weight * (action**2).sum(1)


def _episode(start, end, energy, direction, dt, weight=0.05):
    return direction * (end - start) / dt - weight * energy


def _hours(seconds, steps, target, seeds, learners):
    return seconds * target / steps * seeds * learners / 3600


_ROLLOUTS = [(3 * normal(s, 7), np.random.default_rng(s + 1).uniform(-1, 1, (7, 6)), 1.0 - s) for s in (0, 2)]
_ENDS = [(0.03, 41.2, 520.0, 1.0, 0.05), (-0.4, -33.0, 310.0, -1.0, 0.05), (0.2, -1.5, 90.0, 1.0, 0.01)]
_CELLS = [(90.0, 20_000, 1_000_000, 5, 9), (828.0, 40_000, 1_000_000, 10, 3), (700.0, 30_000, 250_000, 1, 1)]
EXERCISES |= {
    "09.1": function(_reward, _ROLLOUTS, lambda v, a, d: {
        "the control cost is missing": d * v,
        "0.05 is the weight that the field shares; 0.1 is gymnasium's own": _reward(v, a, d, 0.1),
        "sum the squares over the motors, do not average them": d * v - 0.05 * (a**2).mean(1),
        "square the actions; that is their absolute size": d * v - 0.05 * np.abs(a).sum(1),
        "energy costs in both tasks: the direction multiplies the velocity alone": d * _reward(v, a, 1.0),
        "the direction is missing: both tasks would pay the same": _reward(v, a, 1.0),
        "the control cost has the wrong sign: energy would be paid for": _reward(v, a, d, -0.05),
        "running the wrong way must cost: no absolute velocity": _reward(np.abs(v), a, 1.0),
    }, "the reward"),
    "09.2": function(_episode, _ENDS, lambda s, e, q, d, dt: {
        "velocity is distance over time: divide by dt": _episode(s, e, q, d, 1.0),
        "divide by dt, do not multiply": _episode(s, e, q, d, 1 / dt),
        "the start counts too: the sum of the steps is end minus start": _episode(0, e, q, d, dt),
        "the control cost is missing": _episode(s, e, 0.0, d, dt),
        "energy is paid for at 0.05 a unit": _episode(s, e, q, d, dt, 1.0),
        "the direction is missing": _episode(s, e, q, 1.0, dt),
        "energy costs in both tasks: the direction multiplies the distance alone": d * _episode(s, e, q, 1.0, dt),
    }, "the return"),
    "09.3": choice("c", {
        "a": "one episode of one seed of one learner was filmed: the others may do better or worse",
        "b": "length or looks of a run are not what is scored; the return is, over all seeds, and the tables have it",
        "d": "it shows something: that a policy with this return exists, and how it moves",
    }),
    "09.4": function(_hours, _CELLS, lambda s, n, t, seeds, k: {
        "these are seconds; an hour has 3,600 of them": _hours(s, n, t, seeds, k) * 3600,
        "these are minutes; an hour has 3,600 seconds": _hours(s, n, t, seeds, k) * 60,
        "a ratio of steps need not be whole: `/`, not `//`": _hours(s, 1, t // n, seeds, k),
        "every seed is a run of its own: multiply by their number": _hours(s, n, t, 1, k),
        "every learner has its own runs: multiply by their number": _hours(s, n, t, seeds, 1),
        "the budget grows: multiply by target / steps": _hours(s, n, n, seeds, k),
        "target and steps are exchanged": _hours(s, t, n, seeds, k),
    }, "the hours"),
}  # fmt: skip
