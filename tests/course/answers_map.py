"""Planted answers to the exercises of notebook 13."""

import math


def error(h2, v, w):
    return v * w * w + h2 - 2 * w * h2 + w * w * h2


def stars(cells, p, most=0.05):
    k, tail = 0, 1.0  # P(X >= 0)
    while tail > most:
        tail -= math.comb(cells, k) * p**k * (1 - p) ** (cells - k)
        k += 1
    return k


RIGHT = {"13.1": error, "13.2": lambda h2, v: 1 - v / (h2 + v), "13.3": "b", "13.4": stars}
WRONG = [
    ("13.1", lambda h2, v, w: w * v + (1 - w) * h2, "squared"),
    ("13.1", lambda h2, v, w: error(v, h2, w), "other way round"),
    ("13.1", lambda h2, v, w: (w * v**0.5 + (1 - w) * h2**0.5) ** 2, "squares a sum"),
    ("13.1", lambda h2, v, w: error(h2**2, v**2, w), "do not square"),
    ("13.2", lambda h2, v: v / (h2 + v), "weight of the mean"),
    ("13.2", lambda h2, v: h2**2 / (h2**2 + v**2), "variances already"),
    ("13.2", lambda h2, v: h2**0.5 / (h2**0.5 + v**0.5), "standard deviations"),
    ("13.2", lambda h2, v: v / h2 if h2 else math.inf, "lambda"),
    ("13.3", "a", "no argument"),
    ("13.3", "c", "second numbers"),
    ("13.3", "d", "look again"),
    ("13.4", lambda cells, p: stars(cells, p) - 1, "more"),
    ("13.4", lambda cells, p: cells * p, "mean number"),
    ("13.4", lambda cells, p: stars(cells, p, 0.025), "one side"),
]
