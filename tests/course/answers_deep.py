"""Notebooks 00, 06, 07 and 12: right answers, by other means than the checkers' where there are any, and planted
mistakes, each with words of its diagnosis."""

import numpy as np


def density(mean, log_std, u):
    """By the numerically stable form of the correction, unlike the checker."""
    normal = -((u - mean) ** 2) / (2 * np.exp(2 * log_std)) - log_std - np.log(np.sqrt(2 * np.pi))
    return (normal - 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))).sum(1)


def plain_normal(mean, log_std, u):
    return (-((u - mean) ** 2) / (2 * np.exp(2 * log_std)) - log_std - np.log(np.sqrt(2 * np.pi))).sum(1)


def target(reward, terminated, q, log_prob, alpha, gamma):
    return np.where(terminated == 1, reward, reward + gamma * (np.minimum(q[0], q[1]) - alpha * log_prob))


def one_round(theta, actors, eta_lam, beta):
    w = (1 - eta_lam) * theta + eta_lam * actors
    return theta + beta * (w.mean(0) - theta)


def improvement(x, y, tie=0.5):
    return sum(1.0 if a > b else tie if a == b else 0.0 for a in x for b in y) / (len(x) * len(y))


def iqm(scores):
    n = len(scores)
    return np.mean(sorted(scores)[n // 4 : n - n // 4])


RIGHT = {
    "00.1": "b",
    "00.2": lambda x, theta, lam: 0.5 * lam * np.linalg.norm(x - theta) ** 2,
    "00.3": lambda g, h: np.vdot(g, h) / np.linalg.norm(g) / np.linalg.norm(h),
    "00.4": "c",
    "06.1": density,
    "06.2": target,
    "06.3": lambda log_prob, target: -np.mean(log_prob) - target,
    "06.4": lambda target, critic, rate: target + rate * (critic - target),
    "07.1": lambda gradient, actors, w, lam: gradient + lam * actors - lam * w,
    "07.3": lambda y, w, lam, rate: y + rate * lam / (1 + rate * lam) * (w - y),
    "07.2": one_round,
    "07.4": "a",
    "12.1": lambda low, high, threshold: int(low > threshold) - int(high < threshold),
    "12.2": improvement,
    "12.3": iqm,
    "12.4": "b",
}

WRONG = [
    ("00.1", "a", "soft spring"),
    ("00.1", "C", "do move"),
    ("00.1", "d", "what the arms pay"),
    ("00.2", lambda x, theta, lam: lam * ((x - theta) ** 2).sum(), "1/2"),
    ("00.2", lambda x, theta, lam: 0.5 * ((x - theta) ** 2).sum(), "lambda is missing"),
    ("00.2", lambda x, theta, lam: 0.5 * lam * np.sqrt(((x - theta) ** 2).sum()), "its square"),
    ("00.2", lambda x, theta, lam: 0.5 * lam * ((x - theta) ** 2).mean(), "mean"),
    ("00.2", lambda x, theta, lam: 0.5 * lam * (x - theta) ** 2, "shape"),
    ("00.3", lambda g, h: np.vdot(g, h), "divide by both lengths"),
    ("00.3", lambda g, h: np.vdot(g, h) / (g**2).sum() / (h**2).sum(), "not by their squares"),
    ("00.3", lambda g, h: abs(np.vdot(g, h)) / np.linalg.norm(g) / np.linalg.norm(h), "no absolute value"),
    ("00.3", lambda g, h: np.vdot(g, h) < 0, "whether they conflict"),
    ("00.4", "a", "our formulation"),
    ("00.4", "b", "no such number"),
    ("00.4", "d", "our own runs"),
    ("06.1", plain_normal, "correction for tanh is missing"),
    ("06.1", lambda m, s, u: 2 * plain_normal(m, s, u) - density(m, s, u), "wrong sign"),
    ("06.1", lambda m, s, u: density(m, s, u) + s.sum(1), "log std is missing"),
    ("06.1", lambda m, s, u: density(m, s, u)[:, None], "shape"),
    ("06.1", lambda m, s, u: plain_normal(m, s, u) - np.log(1 - np.tanh(np.tanh(u)) ** 2).sum(1), "twice"),
    ("06.2", lambda r, d, q, lp, a, g: target(r, d, q[:, :] * 0 + q.max(0), lp, a, g), "smaller of the two"),
    ("06.2", lambda r, d, q, lp, a, g: target(r, d, np.stack([q.mean(0)] * 2), lp, a, g), "not their mean"),
    ("06.2", lambda r, d, q, lp, a, g: target(r, d, q, lp, -a, g), "wrong sign"),
    ("06.2", lambda r, d, q, lp, a, g: target(r, d, q, lp, 0, g), "is missing"),
    ("06.2", lambda r, d, q, lp, a, g: target(r, 0 * d, q, lp, a, g), "(1 - terminated)"),
    ("06.2", lambda r, d, q, lp, a, g: target(r, d, q, lp, a, 1), "gamma is missing"),
    ("06.3", lambda log_prob, target: -np.mean(log_prob) + target, "target entropy has the wrong sign"),
    ("06.3", lambda log_prob, target: -np.mean(log_prob), "target entropy is missing"),
    ("06.3", lambda log_prob, target: -np.sum(log_prob + target), "not the sum"),
    ("06.3", lambda log_prob, target: np.mean(log_prob) + target, "sign is wrong everywhere"),
    ("06.4", lambda target, critic, rate: critic + rate * (target - critic), "exchanged"),
    ("06.4", lambda target, critic, rate: target + rate * critic, "1 - polyak"),
    ("06.4", lambda target, critic, rate: critic, "lag"),
    ("06.4", lambda target, critic, rate: target - rate * (critic - target), "away"),
    ("07.1", lambda g, a, w, lam: g - lam * (a - w), "wrong sign"),
    ("07.1", lambda g, a, w, lam: g + lam / 2 * (a - w), "cancels"),
    ("07.1", lambda g, a, w, lam: g, "term is missing"),
    ("07.1", lambda g, a, w, lam: g + (a - w), "lambda is missing"),
    ("07.1", lambda g, a, w, lam: g + lam * (a - a.mean(0)), "own mean"),
    ("07.3", lambda y, w, lam, rate: y - rate * lam * (y - w), "overshoots"),
    ("07.3", lambda y, w, lam, rate: y + rate * lam * w, "add to 1"),
    ("07.3", lambda y, w, lam, rate: (w + rate * lam * y) / (1 + rate * lam), "exchanged"),
    ("07.3", lambda y, w, lam, rate: (y + lam * w) / (1 + lam), "learning rate"),
    ("07.2", lambda t, a, e, b: one_round(t, a, 1.0, b), "eta * lambda is missing"),
    ("07.2", lambda t, a, e, b: one_round(t, a, e, 1.0), "beta is missing"),
    ("07.2", lambda t, a, e, b: one_round(t, a, e, 1 - b), "exchanged"),
    ("07.2", lambda t, a, e, b: (1 - b) * t + b * ((1 - e) * t + e * a).sum(0), "not the sum"),
    ("07.4", "b", "size"),
    ("07.4", "c", "as many transitions"),
    ("07.4", "d", "explores"),
    ("12.1", lambda low, high, threshold: 1 if (low + high) / 2 > threshold else -1, "middle"),
    ("12.1", lambda low, high, threshold: 1 if high > threshold else -1, "optimist"),
    ("12.1", lambda low, high, threshold: 1 if low > threshold else -1, "undecided"),
    ("12.1", lambda low, high, threshold: int(low > threshold), "refutation"),
    ("12.2", lambda x, y: improvement(x, y, 0.0), "not zero"),
    ("12.2", lambda x, y: improvement(x, y, 1.0), "whole win"),
    ("12.2", lambda x, y: np.mean(x > y) + 0.5 * np.mean(x == y), "every run"),
    ("12.2", lambda x, y: improvement(y, x), "y beats x"),
    ("12.2", lambda x, y: float(x.mean() > y.mean()), "how often"),
    ("12.3", np.mean, "plain mean"),
    ("12.3", np.median, "median"),
    ("12.3", lambda scores: scores[len(scores) // 4 : len(scores) - len(scores) // 4].mean(), "sort"),
    ("12.3", lambda scores: np.sort(scores)[len(scores) // 4 :].mean(), "only the lowest"),
    ("12.3", lambda scores: np.sort(scores)[: len(scores) - len(scores) // 4].mean(), "only the highest"),
    ("12.4", "a", "every single seed"),
    ("12.4", "c", "cancel"),
    ("12.4", "d", "worse"),
]
