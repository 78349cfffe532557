"""Notebooks 10 and 11: right answers, by other means than the checkers' where there are any, and planted
mistakes, each with words of its diagnosis."""

import numpy as np


def posterior(means, variances):
    """One factor after the other, each by the update of a normal mean, unlike the checker."""
    mean, variance = np.zeros(means.shape[1]), np.ones(means.shape[1])
    for m, v in zip(means, variances, strict=True):
        gain = variance / (variance + v)
        mean, variance = mean + gain * (m - mean), (1 - gain) * variance
    return mean, variance


def best_lam(a, sigma, s, n):
    share = (s**2 / n) / (sigma**2 + s**2 / n)  # of theta: the known optimal weight of two estimates
    return a * share / (1 - share)


def average(steps, returns):
    areas = [(t1 - t0) * (r0 + r1) / 2 for t0, t1, r0, r1 in zip(steps, steps[1:], returns, returns[1:])]
    return sum(areas) / (steps[-1] - steps[0])


def paired(variant, default):
    d = [v - w for v, w in zip(variant, default, strict=True)]
    mean = sum(d) / len(d)
    return mean, (sum((x - mean) ** 2 for x in d) / (len(d) - 1) / len(d)) ** 0.5


def local(theta, c, a, lam, e, R):
    """In closed form: the distance to c shrinks by the same factor at each local step."""
    return c + (1 - e * a / (a + lam)) ** R * (theta - c)


RIGHT = {
    "10.1": best_lam,
    "10.2": posterior,
    "10.3": average,
    "10.4": "c",
    "11.1": paired,
    "11.2": lambda p, m: 1 - np.prod([1 - p] * m),
    "11.3": local,
    "11.4": "a",
}

WRONG = [
    ("10.1", lambda a, sigma, s, n: n * sigma**2 / (a * s**2), "upside down"),
    ("10.1", lambda a, sigma, s, n: a * (s / sigma) ** 2, "episodes"),
    ("10.1", lambda a, sigma, s, n: a * s / sigma / n, "not standard deviations"),
    ("10.1", lambda a, sigma, s, n: (s / sigma) ** 2 / n, "curvature"),
    ("10.1", lambda a, sigma, s, n: s**2 / (n * sigma**2 + s**2), "share"),
    ("10.2", lambda m, v: ((m / v).sum(0) / (1 / v).sum(0), 1 / (1 / v).sum(0)), "prior"),
    ("10.2", lambda m, v: ((m * v).sum(0) / (1 + v.sum(0)), 1 / (1 + v.sum(0))), "vague"),
    ("10.2", lambda m, v: (m.sum(0) / (len(m) + 1), posterior(m, v)[1]), "plain average"),
    ("10.2", lambda m, v: ((m / v).sum(0), posterior(m, v)[1]), "still to be divided"),
    ("10.2", lambda m, v: (posterior(m, v)[0], 1 + (1 / v).sum(0)), "that is the precision"),
    ("10.2", lambda m, v: (posterior(m, v)[0], posterior(m, v)[1] ** 0.5), "standard deviation"),
    ("10.2", lambda m, v: posterior(m, v)[0], "expected 2 results"),
    ("10.3", lambda t, r: np.mean(r), "uneven"),
    ("10.3", lambda t, r: average(t, r) * (t[-1] - t[0]), "area"),
    ("10.3", lambda t, r: np.dot(r[:-1], np.diff(t)) / (t[-1] - t[0]), "nothing were learned"),
    ("10.3", lambda t, r: np.dot(r[1:], np.diff(t)) / (t[-1] - t[0]), "not reached yet"),
    ("10.3", lambda t, r: r[-1], "way there"),
    ("10.4", "a", "trained on these very tasks"),
    ("10.4", "b", "narrow"),
    ("10.4", "d", "another question"),
    ("11.1", lambda v, d: paired(d, v), "variant minus default"),
    ("11.1", lambda v, d: (paired(v, d)[0], np.sqrt(np.var(v, ddof=1) / len(v) + np.var(d, ddof=1) / len(d))), "pair"),
    ("11.1", lambda v, d: (paired(v, d)[0], np.std(v - d, ddof=1)), "one difference"),
    ("11.1", lambda v, d: (paired(v, d)[0], np.std(v - d, ddof=1) / len(v)), "not by n"),
    ("11.1", lambda v, d: (paired(v, d)[0], np.std(v - d) / len(v) ** 0.5), "ddof=1"),
    ("11.2", lambda p, m: p * m, "expected number"),
    ("11.2", lambda p, m: p**m, "all are"),
    ("11.2", lambda p, m: (1 - p) ** m, "none is"),
    ("11.2", lambda p, m: m * p * (1 - p) ** (m - 1), "exactly one"),
    ("11.3", lambda theta, c, a, lam, e, R: local(theta, c, a, lam, e, 1), "one local step"),
    ("11.3", lambda theta, c, a, lam, e, R: theta + R * e * a / (a + lam) * (c - theta), "anew"),
    ("11.3", lambda theta, c, a, lam, e, R: local(theta, c, a, lam, 1, R), "eta lambda is missing"),
    ("11.3", lambda theta, c, a, lam, e, R: local(theta, c, lam, a, e, R), "weighs"),
    ("11.3", lambda theta, c, a, lam, e, R: c + lam / (a + lam) * (local(theta, c, a, lam, e, R - 1) - c), "last prox"),
    ("11.4", "b", "was not run"),
    ("11.4", "c", "other way round"),
    ("11.4", "d", "pair has to be run"),
]
