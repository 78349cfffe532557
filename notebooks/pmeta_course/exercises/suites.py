"""Exercises of notebooks 08 and 09: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np

from pmeta_course.exercises.checkers import choice, function

_rng = np.random.default_rng


# ---- 08: from curves to scores


def _final(steps, returns, share=0.75):
    return float(returns[steps > share * steps.max()].mean())


def _score(returns, random, reference):
    return (returns - random) / (reference.mean() - random)


def _standard_error(x, ddof=1):
    return float(x.std(ddof=ddof) / np.sqrt(x.size))


# evaluations at uneven steps, one of them at three quarters exactly
_UNEVEN = ([0, 10, 20, 80, 300, 340, 360, 380, 400], [0, 400, 500, 600, 700, 790, 800])
_RUNS = [(np.array(steps), _rng(s).normal(-300, 60, len(steps))) for s, steps in enumerate(_UNEVEN)]
_FAMILIES = [(_rng(s).normal(low + 700, 90, 5), low, _rng(s + 1).normal(low + 900, 60, 5))
             for s, low in ((0, -1200.0), (4, -20.0))]  # fmt: skip
_RETURNS = [(_rng(s).normal(size=(n, 1, 1)) + 0.4 * _rng(s + 1).normal(size=(n, k, e)),)
            for s, n, k, e in ((0, 5, 3, 4), (3, 10, 2, 5))]  # fmt: skip
EIGHTH = {
    "08.1": function(_final, _RUNS, {
        "that is the best evaluation: a maximum of noisy numbers is too high": lambda steps, x: float(x.max()),
        "that is the last evaluation alone: average all of the last quarter, it is far less noisy":
            lambda steps, x: float(x[-1]),
        "that is the mean of the whole curve; only the last quarter counts": lambda steps, x: float(x.mean()),
        "the evaluation at exactly three quarters does not count: the steps must lie above it":
            lambda steps, x: float(x[steps >= 0.75 * steps.max()].mean()),
        "a quarter of the steps, not of the evaluations: they need not be evenly spaced":
            lambda steps, x: float(x[-(len(x) // 4) :].mean()),
        "that is the first three quarters; take the last":
            lambda steps, x: float(x[steps <= 0.75 * steps.max()].mean()),
    }, ("the final return",)),
    "08.2": function(_score, _FAMILIES, {
        "subtract the random policy's return below the line too: 1 must be the reference":
            lambda x, low, one: (x - low) / one.mean(),
        "subtract the random policy's return: returns may be negative, a plain ratio has no meaning":
            lambda x, low, one: x / one.mean(),
        "the ends are exchanged: random is 0, the reference is 1": lambda x, low, one: 1 - _score(x, low, one),
        "use the mean of the reference's runs: run k of one learner does not belong to run k of the other":
            lambda x, low, one: (x - low) / (one - low),
        "use the mean of the reference's runs, not the best of them":
            lambda x, low, one: (x - low) / (one.max() - low),
        "that is the distance to random, not yet divided by that of the reference": lambda x, low, one: x - low,
    }, ("the scores",)),
    "08.3": function(lambda x: _standard_error(x.mean((1, 2))), _RETURNS, {
        "episodes of one run are not independent runs: average them first, then count seeds":
            lambda x: _standard_error(x.ravel()),
        "tasks of one run are not independent runs: average over them too, then count seeds":
            lambda x: _standard_error(x.mean(2).ravel()),
        "that is the scatter of the runs; the mean of n runs scatters less, by the root of n":
            lambda x: float(x.mean((1, 2)).std(ddof=1)),
        "divide by n - 1, not by n, inside the standard deviation (ddof=1)":
            lambda x: _standard_error(x.mean((1, 2)), 0),
        "divide by the root of n, not by n": lambda x: float(x.mean((1, 2)).std(ddof=1) / len(x)),
    }, ("the standard error",)),
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


_ROLLOUTS = [(_rng(s).normal(size=7) * 3, _rng(s + 1).uniform(-1, 1, (7, 6)), d) for s, d in ((0, 1.0), (2, -1.0))]
_ENDS = [(0.03, 41.2, 520.0, 1.0, 0.05), (-0.4, -33.0, 310.0, -1.0, 0.05), (0.2, -1.5, 90.0, 1.0, 0.01)]
_CELLS = [(90.0, 20_000, 1_000_000, 5, 9), (828.0, 40_000, 1_000_000, 10, 3), (700.0, 30_000, 1_000_000, 1, 1)]
NINTH = {
    "09.1": function(_reward, _ROLLOUTS, {
        "the control cost is missing": lambda v, a, d: d * v,
        "0.05 is the weight that the field shares; 0.1 is gymnasium's own": lambda v, a, d: _reward(v, a, d, 0.1),
        "sum the squares over the motors, do not average them": lambda v, a, d: d * v - 0.05 * (a**2).mean(1),
        "square the actions; that is their absolute size": lambda v, a, d: d * v - 0.05 * np.abs(a).sum(1),
        "energy costs in both tasks: the direction multiplies the velocity alone":
            lambda v, a, d: d * _reward(v, a, 1.0),
        "the direction is missing: both tasks would pay the same": lambda v, a, d: _reward(v, a, 1.0),
        "the control cost has the wrong sign: energy would be paid for": lambda v, a, d: _reward(v, a, d, -0.05),
        "running the wrong way must cost: no absolute velocity": lambda v, a, d: _reward(np.abs(v), a, 1.0),
    }, ("the reward",)),
    "09.2": function(_episode, _ENDS, {
        "velocity is distance over time: divide by dt": lambda s, e, q, d, dt: _episode(s, e, q, d, 1.0),
        "divide by dt, do not multiply": lambda s, e, q, d, dt: _episode(s, e, q, d, 1 / dt),
        "the start counts too: the sum of the steps is end minus start":
            lambda s, e, q, d, dt: _episode(0, e, q, d, dt),
        "the control cost is missing": lambda s, e, q, d, dt: _episode(s, e, 0.0, d, dt),
        "energy is paid for at 0.05 a unit": lambda s, e, q, d, dt: _episode(s, e, q, d, dt, 1.0),
        "the direction is missing": lambda s, e, q, d, dt: _episode(s, e, q, 1.0, dt),
        "energy costs in both tasks: the direction multiplies the distance alone":
            lambda s, e, q, d, dt: d * _episode(s, e, q, 1.0, dt),
    }, ("the return",)),
    "09.3": choice("c", {
        "a": "one episode of one seed of one learner was filmed: the others may do better or worse",
        "b": "length or looks of a run are not what is scored; the return is, over all seeds, and the tables have it",
        "d": "it shows something: that a policy with this return exists, and how it moves",
    }),
    "09.4": function(_hours, _CELLS, {
        "these are seconds; an hour has 3,600 of them": lambda *x: _hours(*x) * 3600,
        "these are minutes; an hour has 3,600 seconds": lambda *x: _hours(*x) * 60,
        "a ratio of steps need not be whole: `/`, not `//`": lambda s, n, t, seeds, k: _hours(s, 1, t // n, seeds, k),
        "every seed is a run of its own: multiply by their number": lambda s, n, t, seeds, k: _hours(s, n, t, 1, k),
        "every learner has its own runs: multiply by their number": lambda s, n, t, seeds, k: _hours(s, n, t, seeds, 1),
        "the budget grows: multiply by target / steps": lambda s, n, t, seeds, k: _hours(s, n, n, seeds, k),
        "target and steps are exchanged": lambda s, n, t, seeds, k: _hours(s, t, n, seeds, k),
    }, ("the hours",)),
}  # fmt: skip

EXERCISES = EIGHTH | NINTH
