"""Planted answers to the exercises of notebook 14."""

import numpy as np


def meta_gradient(theta, a, c, s):
    adapted = theta + s * a * (c - theta)
    return np.mean((1 - s * a) * a * (c - adapted))


def to_go(reward, ended, gamma):
    out = list(reward)
    for t in range(len(reward) - 2, -1, -1):
        out[t] = reward[t] + gamma * out[t + 1]
    return np.array(out)


def cut(reward, ended, gamma):
    out = list(reward)
    for t in range(len(reward) - 2, -1, -1):
        out[t] = reward[t] + (0 if ended[t] else gamma * out[t + 1])
    return np.array(out)


RIGHT = {"14.1": meta_gradient, "14.2": "b", "14.3": to_go}
WRONG = [
    ("14.1", lambda theta, a, c, s: np.mean(a * (c - theta - s * a * (c - theta))), "first-order"),
    ("14.1", lambda theta, a, c, s: np.mean((1 + s * a) * a * (c - theta - s * a * (c - theta))), "1 - s a"),
    ("14.1", lambda theta, a, c, s: np.mean((1 - s * a) * a * (c - theta)), "a second time"),
    ("14.1", lambda theta, a, c, s: np.mean(a * (c - theta)), "joint learning"),
    ("14.1", lambda *x: meta_gradient(*x) * len(x[1]), "mean over tasks"),
    ("14.2", "a", "starts differ"),
    ("14.2", "c", "second step"),
    ("14.2", "d", "start from step"),
    ("14.3", cut, "exploring"),
    ("14.3", lambda reward, ended, gamma: to_go(reward, ended, 1.0), "gamma"),
    ("14.3", lambda reward, ended, gamma: to_go(reward, ended, gamma) - reward, "own reward"),
    ("14.3", lambda reward, ended, gamma: np.cumsum(reward), "so far"),
]
