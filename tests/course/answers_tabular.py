"""Notebooks 01 to 05: right answers, by other means than the checkers' where there are any, and planted
mistakes, each with words of its diagnosis."""

import numpy as np


def softmax(theta):
    e = np.exp(theta)
    return e / e.sum(1, keepdims=True)


def gradient(theta, d, Q):
    pi = softmax(theta)
    return d[:, None] * pi * (Q - (pi * Q).sum(1)[:, None])


def soft_threshold(a, c, lam, theta):
    """The prox of a |x - c| by its three cases."""
    if abs(theta - c) <= a / lam:
        return c
    return theta - a / lam if theta > c else theta + a / lam


def conflict(g):
    n = len(g)
    return sum((g[i] * g[j]).sum() < 0 for i in range(n) for j in range(i)) / (n * (n - 1) / 2)


def agree(g):
    return sum((a * b).sum() > 0 for i, a in enumerate(g) for b in g[:i]) / (len(g) * (len(g) - 1) / 2)


def inner(ascent, w, y, lam, s, K):
    for _ in range(K):
        y = y + s * (ascent(y) - lam * (y - w))
    return y


def inner_in_place(ascent, w, y, lam, s, K):
    for _ in range(K):
        y += s * (ascent(y) - lam * (y - w))
    return y


def one_round(theta, y, ascents, lam, eta, beta, s, K, cold=False, forget_eta=False, total=False):
    y = np.array([inner(g, theta, theta if cold else row, lam, s, K) for g, row in zip(ascents, y)])
    w = y if forget_eta else theta - eta * lam * (theta - y)
    return (1 - beta) * theta + beta * (w.sum(0) if total else w.mean(0)), y


def phi(f, y, theta, lam, half=0.5):
    return np.mean([f[i] + half * lam * np.sum((y[i] - theta) ** 2) for i in range(len(f))])


def variance(g, n):
    N = len(g)
    return ((g - g.mean(0)) ** 2).sum() / N * (N - n) / (n * (N - 1))


def normalised(J, u, b):
    return 100 * ((J - u) / (b - u)).mean()


def interval(a, b, index):
    return np.percentile([(a - b)[k].mean() for k in index], [2.5, 97.5])


RIGHT = {
    "01.1": gradient,
    "01.4": conflict,
    "01.2": [-90 / 121, 90 / 121],
    "01.3": lambda gamma: 1 / (1 - gamma),
    "02.1": soft_threshold,
    "02.2": lambda theta, prox, lam: lam * (theta - prox),
    "02.3": lambda a, c, theta, distance: a * (abs(c - theta) / distance - 1),
    "02.4": lambda a, lam: a * lam / (a + lam),
    "03.1": lambda lam, L: (lam + L) / (lam * L),
    "03.2": lambda gap, alpha, eps: int(np.ceil(2 * gap / alpha / eps**2)),
    "03.3": phi,
    "03.4": variance,
    "04.1": inner,
    "04.2": one_round,
    "04.3": lambda alpha, lam, eta, beta: alpha / beta / eta / lam,
    "04.4": 6,
    "05.1": normalised,
    "05.4": lambda tuning, evaluation: evaluation[np.argmax(tuning.mean(axis=1))].mean(),
    "05.2": interval,
    "05.3": "c",
}

WRONG = [
    ("01.1", lambda t, d, Q: d[:, None] * softmax(t) * Q, "advantage"),
    ("01.1", lambda t, d, Q: d[:, None] * (Q - (softmax(t) * Q).sum(1)[:, None]), "pi(a|s) is missing"),
    ("01.1", lambda t, d, Q: softmax(t) * (Q - (softmax(t) * Q).sum(1)[:, None]), "occupancy"),
    ("01.1", lambda t, d, Q: gradient(t, d, Q).T, "transposed"),
    ("01.1", lambda t, d, Q: -gradient(t, d, Q), "sign"),
    ("01.1", lambda t, d, Q: 0.1 * gradient(t, d, Q), "same factor, 0.1"),
    ("01.4", lambda g: np.mean(g.reshape(len(g), -1) @ g.reshape(len(g), -1).T < 0), "itself"),
    ("01.4", lambda g: agree(g), "agree"),
    ("01.4", lambda g: 1 - conflict(g), "do not conflict"),
    ("01.4", lambda g: round(conflict(g) * len(g) * (len(g) - 1) / 2), "number of pairs"),
    ("01.2", [90 / 121, -90 / 121], "exchanged"),
    ("01.2", [-9 / 121, 9 / 121], "normalised occupancy"),
    ("01.2", [-180 / 121, 180 / 121], "factor pi"),
    ("01.2", -90 / 121, "shape"),
    ("01.3", lambda gamma: 1, "infinitely many"),
    ("01.3", lambda gamma: gamma / (1 - gamma), "gamma^0"),
    ("01.3", lambda gamma: 1 - gamma, "inverse"),
    ("01.3", lambda gamma: 0.5 / (1 - gamma), "sum"),
    ("02.1", lambda a, c, lam, theta: theta - a / lam if theta > c else theta + a / lam, "past the corner"),
    ("02.1", lambda a, c, lam, theta: (a * c + lam * theta) / (a + lam), "whatever the distance"),
    ("02.1", lambda a, c, lam, theta: soft_threshold(lam, c, a, theta), "upside down"),
    ("02.1", lambda a, c, lam, theta: soft_threshold(a, 0, lam, theta), "towards 0"),
    ("02.1", lambda a, c, lam, theta: soft_threshold(a / 2, c, lam, theta), "1/2"),
    ("02.2", lambda theta, prox, lam: lam * (prox - theta), "sign"),
    ("02.2", lambda theta, prox, lam: theta - prox, "lambda is missing"),
    ("02.2", lambda theta, prox, lam: 0.5 * lam * (theta - prox), "no 1/2"),
    ("02.2", lambda theta, prox, lam: float(np.sum(lam * (theta - prox))), "shape"),
    ("02.3", lambda a, c, theta, distance: a * abs(c - theta) / distance, "- a is missing"),
    ("02.3", lambda a, c, theta, distance: a * (distance / abs(c - theta) - 1), "upside down"),
    ("02.3", lambda a, c, theta, distance: a * ((c - theta) / distance - 1), "|c - theta|"),
    ("02.4", lambda a, lam: a + lam, "inner problem"),
    ("02.4", lambda a, lam: 2 * a * lam / (a + lam), "half"),
    ("02.4", lambda a, lam: abs(a) * lam / (abs(a) + lam), "not |a|"),
    ("03.1", lambda lam, L: 1 / (lam + L), "inner step"),
    ("03.1", lambda lam, L: 1 / L, "flatter"),
    ("03.1", lambda lam, L: lam * L / (lam + L), "inverse"),
    ("03.1", lambda lam, L: (lam - L) / (lam * L), "T1"),
    ("03.2", lambda gap, alpha, eps: int(np.ceil(2 * gap / alpha / eps)), "squared"),
    ("03.2", lambda gap, alpha, eps: int(2 * gap / alpha / eps**2), "off by one: round up"),
    ("03.2", lambda gap, alpha, eps: int(np.ceil(2 * gap / alpha / eps**2)) + 1, "no further round"),
    ("03.2", lambda gap, alpha, eps: 2 * gap / alpha / eps**2, "integer"),
    ("03.3", lambda f, y, theta, lam: phi(f, y, theta, lam, 1.0), "1/2"),
    ("03.3", lambda f, y, theta, lam: phi(f, y, theta, lam) * len(f), "not the sum"),
    ("03.3", lambda f, y, theta, lam: phi(f, y, theta, lam, -0.5), "wrong sign"),
    ("03.3", lambda f, y, theta, lam: f + lam / 2 * ((y - theta) ** 2).sum((1, 2)), "shape"),
    ("03.4", lambda g, n: ((g - g.mean(0)) ** 2).sum() / len(g) / n, "replacement"),
    ("03.4", lambda g, n: variance(g, n) * (len(g) - 1) / len(g), "off by one"),
    ("03.4", lambda g, n: variance(g, n) / g.shape[1], "averaged"),
    ("04.1", lambda g, w, y, lam, s, K: inner(lambda _: g(w), w, y, lam, s, K), "present y"),
    ("04.1", lambda g, w, y, lam, s, K: inner(g, w, y, lam, s, K - 1), "one inner step too few"),
    ("04.1", lambda g, w, y, lam, s, K: inner(g, w, y, -lam, s, K), "points away"),
    ("04.1", lambda g, w, y, lam, s, K: inner(g, w, y, 0, s, K), "is missing"),
    ("04.1", inner_in_place, "changes the array"),
    ("04.1", lambda g, w, y, lam, s, K: print(end=""), "return"),
    ("04.2", lambda *a: one_round(*a, cold=True), "cold start"),
    ("04.2", lambda *a: one_round(*a, forget_eta=True), "eta * lambda is missing"),
    ("04.2", lambda *a: one_round(*a, total=True), "sum of the w_i"),
    ("04.2", lambda *a: one_round(*a)[0], "expected 2 results"),
    ("04.3", lambda alpha, lam, eta, beta: alpha * lam * eta * beta, "solve for s"),
    ("04.3", lambda alpha, lam, eta, beta: alpha / (eta * lam), "beta is missing"),
    ("04.3", lambda alpha, lam, eta, beta: alpha / (beta * lam), "eta is missing"),
    ("04.4", 4, "inner step"),
    ("04.4", 5, "towards y"),
    ("04.4", 1, "copy of theta"),
    ("04.4", 9, "answer with one of"),
    ("05.1", lambda J, u, b: normalised(J, u, b) / 100, "0 to 1"),
    ("05.1", lambda J, u, b: 100 * (J.mean() - u.mean()) / (b.mean() - u.mean()), "each task first"),
    ("05.1", lambda J, u, b: 100 * ((J - u) / b).mean(), "denominator"),
    ("05.1", lambda J, u, b: 100 * (J - u) / (b - u), "shape"),
    ("05.4", lambda tuning, evaluation: evaluation.mean(1).max(), "peeking"),
    ("05.4", lambda tuning, evaluation: tuning.mean(1).max(), "tuning score"),
    ("05.4", lambda tuning, evaluation: evaluation.max(0).mean(), "every evaluation seed"),
    ("05.2", lambda a, b, index: np.percentile((a - b)[index].mean(1), [5, 95]), "90 %"),
    ("05.2", lambda a, b, index: np.percentile(a - b, [2.5, 97.5]), "single seeds"),
    ("05.2", lambda a, b, index: interval(b, a, index), "b - a"),
    ("05.3", "a", "equal"),
    ("05.3", "B", "sign"),
    ("05.3", "d", "looks good"),
]
