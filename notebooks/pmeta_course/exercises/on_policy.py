"""Exercises of notebook 14: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np

from pmeta_course.exercises.checkers import choice, function


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
EXERCISES = {
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
