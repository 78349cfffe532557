"""Answers that are right nearly everywhere and wrong at one edge (a tie, a zero, a whole number, an array changed in
place, an option written in another way), at least one an exercise; and right ones in other forms."""

import math
import sys
from decimal import Decimal
from fractions import Fraction

import answers_deep as deep
import answers_reproduction as reproduction
import answers_suites as suites
import answers_tabular as tabular
import numpy as np
import pandas as pd
import torch


def in_place(target, critic, rate):
    target += rate * (critic - target)
    return target


def pull_in_place(gradient, actors, w, lam):
    gradient += lam * (actors - w)
    return gradient


def whole_numbers(reward, ended, gamma):
    out = reward.copy()  # of whole numbers it stays one of whole numbers
    for t in range(len(out) - 2, -1, -1):
        out[t] = reward[t] + gamma * out[t + 1]
    return out


def median_choice(tuning, evaluation):
    return evaluation[np.argmax(np.median(tuning, axis=1))].mean()


EDGES = [  # name, nearly right answer, words of the diagnosis
    ("00.1", " (C) ", "do move"),
    ("00.1", "e", "answer with one of"),
    ("00.1", "~b", "answer with one of"),
    ("00.1", "b) or c)", "answer with one of"),
    ("00.1", ["b", "c"], "answer with one of"),
    ("00.2", lambda x, t, lam: lam / 2 * np.trace((x - t) @ (x - t).T), "raised"),
    ("00.2", lambda x, t, lam: lam / 2 * ((x - t) ** 2).sum() ** 2 / ((x - t) ** 2).sum(), "not finite"),
    ("00.3", lambda g, h: max(0, np.vdot(g, h)) / np.linalg.norm(g) / np.linalg.norm(h), "edges"),
    ("00.3", lambda g, h: np.vdot(g, h) / np.linalg.norm(g, "fro") / np.linalg.norm(h, "fro"), "raised"),
    ("00.4", "Answer: A", "our formulation"),
    ("01.1", lambda t, d, Q: tabular.gradient(t, np.maximum(d, 0.1), Q), "edges"),
    ("01.2", [-0.74, 0.74], "four digits"),
    ("01.2", np.array([-0.744, 0.744]), "four digits"),
    ("01.2", ["-0.7438", "0.7438"], "real numbers, not str"),
    ("01.2", np.array([-90 / 121, 90 / 121 + 0.5j]), "real numbers, not complex"),
    ("01.3", lambda gamma: f"{1 / (1 - gamma):.4f}", "real numbers, not str"),
    ("01.3", lambda gamma: sys.exit(), "called `exit`"),
    ("01.3", lambda gamma: 1 / (1 - gamma) if gamma else 0.0, "edges"),
    ("01.4", lambda g: 1 - tabular.agree(g), "right angles"),
    ("02.1", lambda a, c, lam, t: c + (t - c) / np.float64(abs(t - c)) * max(abs(t - c) - a / lam, 0), "not finite"),
    ("02.1", lambda a, c, lam, t: t if t == c + a / lam else tabular.soft_threshold(a, c, lam, t), "edges"),
    ("02.1", lambda a, c, lam, t: c + np.sign(t) * max(abs(t - c) - a / lam, 0), "not of theta"),
    ("02.2", lambda t, p, lam: lam * (t - p) ** 2 / (t - p), "not finite"),
    ("02.3", lambda a, c, t, distance: a * (abs(abs(c) - t) / distance - 1), "test inputs"),
    ("02.3", lambda a, c, t, distance: a * (abs(c - abs(t)) / distance - 1), "test inputs"),
    ("02.4", lambda a, lam: 1 / (1 / a + 1 / lam), "ZeroDivisionError"),
    ("03.1", lambda lam, L: 2 / min(lam, L), "values"),
    ("03.2", lambda gap, alpha, eps: int(2 * gap / (alpha * eps**2)) + 1, "whole number"),
    ("03.2", lambda gap, alpha, eps: round(2 * gap / (alpha * eps**2) + 0.5), "whole numbers"),
    ("03.2", lambda gap, alpha, eps: np.ceil(2 * gap / (alpha * eps**2)), "integer"),
    ("03.2", lambda gap, alpha, eps: float(int(np.ceil(2 * gap / (alpha * eps**2)))), "integer"),
    ("03.3", lambda f, y, t, lam: np.mean(f + lam / 2 * ((y - t) ** 2).sum((1, 2)) ** 2 / ((y - t) ** 2).sum((1, 2))),
     "not finite"),
    ("03.4", lambda g, n: tabular.variance(g, max(n, 2)), "edges"),
    ("04.1", lambda g, w, y, lam, s, K: tabular.inner(g, w, y, lam, s, max(K, 1)), "nothing moves"),
    ("04.1", lambda g, w, y, lam, s, K: tabular.inner(g, 0 * w, y, lam, s, K), "not towards 0"),
    ("04.1", lambda g, w, y, lam, s, K: tabular.inner(g, -w, y, lam, s, K), "not towards -w"),
    ("04.1", lambda g, w, y, lam, s, K: tabular.inner(g, w, y, 0.7, s, K), "every argument"),
    ("04.1", lambda g, w, y, lam, s, K: tabular.inner(g, w, y, lam, 0.1, K), "every argument"),
    ("04.2", lambda *a: tabular.one_round(*a[:7], max(a[7], 1)), "edges"),
    ("04.2", lambda *a: tabular.one_round(*a[:7], max(a[7], 2)), "edges"),
    ("04.2", lambda *a: tabular.one_round(*a[:4], max(a[4], 1), *a[5:]), "edges"),
    ("04.2", lambda t, *a: (lambda y: ((1 - a[4]) * t + a[4] * y.mean(0), y))(tabular.one_round(t, *a)[1]),
     "eta * lambda is missing"),
    ("04.3", lambda alpha, lam, eta, beta: alpha / (eta * lam), "beta is missing"),
    ("04.4", "line 5", "towards y"),
    ("04.4", "66", "answer with one of"),
    ("04.4", "-6", "answer with one of"),
    ("04.4", "line -6", "answer with one of"),
    ("04.4", "!6", "answer with one of"),
    ("04.4", "0.6", "answer with one of"),
    ("04.4", True, "answer with one of"),
    ("05.1", lambda J, u, b: 100 * np.clip((J - u) / (b - u), 0, 1).mean(), "clipping"),
    ("05.2", lambda a, b, index: np.percentile((a - b)[index].mean(1), [3, 97]), "values"),
    ("05.3", "B.", "sign"),
    ("05.4", median_choice, "median"),
    ("06.1", lambda m, s, u: deep.plain_normal(m, s, u) - np.log(1 - np.tanh(u) ** 2 + 0.01).sum(1), "values"),
    ("06.2", lambda r, d, q, lp, a, g: (1 - d) * (r + g * (np.minimum(*q) - a * lp)), "values"),
    ("06.3", lambda log_prob, target: -np.median(log_prob) - target, "values"),
    ("06.4", in_place, "changes the array"),
    ("07.1", pull_in_place, "changes the array"),
    ("07.1", lambda g, a, w, lam: g + (lam or 1.0) * (a - w), "edges"),
    ("07.2", lambda t, a, e, b: deep.one_round(t, a, e, b or 1.0), "edges"),
    ("07.3", lambda y, w, lam, rate: (y + max(rate * lam, 0.1) * w) / (1 + max(rate * lam, 0.1)), "edges"),
    ("07.4", "(d)", "explores"),
    ("08.1", lambda steps, x: np.mean(x[steps >= 0.75 * steps[-1]]), "exactly three quarters"),
    ("08.1", lambda steps, x: np.mean(x[steps - steps[0] > 0.75 * (steps[-1] - steps[0])]), "first evaluation"),
    ("08.2", lambda x, low, one: (x - low) / (np.median(one) - low), "not right to four digits"),
    ("08.3", lambda x: np.std(x.mean((1, 2))) / np.sqrt(len(x)), "ddof=1"),
    ("08.4", "C)", "computed correctly"),
    ("09.1", lambda v, a, d: d * v - 0.05 * (a**2).sum(1) * d, "velocity alone"),
    ("09.2", lambda start, end, energy, d, dt: abs(end - start) / dt - energy / 20, "values"),
    ("09.3", "'a'", "one episode of one seed"),
    ("09.4", lambda s, n, t, seeds, k: seeds * k * s * (t // n) / 3600, "not `//`"),
    ("09.4", lambda s, n, t, seeds, k: s / n * 1e6 * seeds * k / 3600, "every argument"),
    ("10.1", lambda a, sigma, s, n: a * (s / sigma) ** 2 / max(n, 2), "values"),
    ("10.2", lambda m, v: (m.mean(0) * 0 + reproduction.posterior(m, v)[0], reproduction.posterior(m, v)[1]),
     "not finite"),
    ("10.3", lambda t, r: reproduction.average(t, r) * (t[-1] - t[0]) / t[-1], "need not be 0"),
    ("10.4", "d ", "another question"),
    ("11.1", lambda v, d: (abs(np.mean(v - d)), reproduction.paired(v, d)[1]), "values"),
    ("11.2", lambda p, m: 1 - np.exp(-p * m), "values"),
    ("11.3", lambda theta, c, a, lam, e, R: reproduction.local(theta, c, a, lam, e, max(R, 2)), "edges"),
    ("11.4", "Option B", "was not run"),
    ("12.1", lambda low, high, threshold: int(low >= threshold) - int(high <= threshold), "exactly at the threshold"),
    ("12.2", lambda x, y: np.mean(x[:, None] >= y), "not a whole win"),
    ("12.2", lambda x, y: np.mean([(x > r) + (x == r) / 2 for r in (np.roll(y, k) for k in range(len(y)))]), "raised"),
    ("12.2", lambda x, y: deep.improvement(x, y) * len(y) / len(x), "other lengths"),
    ("12.3", lambda x: np.mean(np.sort(x)[len(x) // 4 : -(len(x) // 4)]), "fewer than four"),
    ("12.4", "C", "cancel"),
    ("13.1", lambda h2, v, w: (w / v) ** 2 * v**3 + (1 - w) ** 2 * h2, "raised ZeroDivisionError"),
    ("13.2", lambda h2, v: 1 / (1 + v / h2), "raised ZeroDivisionError"),
    ("13.3", " (D) ", "look again"),
    ("13.4", lambda cells, p: math.ceil(cells * p), "values"),
    ("14.1", lambda theta, a, c, s: np.mean((1 - s * a) * a * ((c - theta) / s - a * (c - theta))) * s, "not finite"),
    ("14.2", " (C) ", "second step"),
    ("14.3", whole_numbers, "test inputs"),
]  # fmt: skip

FORMS = [  # right answers in other forms
    ("00.1", "B"), ("00.1", "(b)"), ("00.1", np.str_("b")), ("04.4", "6"), ("04.4", "line 6"), ("04.4", "Line 6."),
    ("04.4", 6.0), ("04.4", np.int64(6)), ("04.4", np.array(6)), ("05.3", " C. "), ("12.4", "answer: b"),
    ("01.2", [-0.7438, 0.7438]), ("01.2", (-0.743802, 0.743802)), ("01.2", np.array([-0.7438, 0.7438])),
    ("03.2", lambda gap, alpha, eps: np.int64(np.ceil(2 * gap / (alpha * eps**2)))),
    ("03.2", lambda gap, alpha, eps: -int(-2 * gap / (alpha * eps**2) // 1)),
    ("00.1", "b) it falls to about 5, what a coin earns"), ("00.1", '`"b"`: it falls to about 5'), ("00.1", "letter b"),
    ("00.1", ["b"]), ("00.1", np.array("b")), ("00.1", pd.Series(["B"])),
    ("04.4", "line no. 6"), ("04.4", "#6"), ("04.4", "number 6"), ("04.4", "6.0"), ("04.4", [6]),
    ("04.4", np.array(["6"])), ("04.4", torch.tensor([6])), ("04.4", Fraction(6)),
    ("01.2", [Fraction(-90, 121), Decimal("0.7438")]), ("01.2", pd.Series([-90 / 121, 90 / 121])),
    ("01.2", np.array([Fraction(-90, 121), 0.7438])), ("01.2", np.array([-90, 90], np.longdouble) / 121),
    ("01.1", lambda *a: pd.DataFrame(tabular.gradient(*a))),
    ("01.1", lambda *a: [list(torch.tensor(row, requires_grad=True)) for row in tabular.gradient(*a)]),
    ("04.2", lambda *a: [list(torch.tensor(part, requires_grad=True)) for part in tabular.one_round(*a)]),
    ("10.2", lambda m, v: np.stack(reproduction.posterior(m, v))),
    ("11.1", lambda v, d: np.array(reproduction.paired(v, d))),
    ("11.1", lambda v, d: torch.tensor(reproduction.paired(v, d), requires_grad=True)),
    ("02.1", lambda a, c, lam, theta: np.array(tabular.soft_threshold(a, c, lam, theta))),
    ("05.2", lambda a, b, index: tuple(tabular.interval(a, b, index))),
    ("04.2", lambda *a: list(tabular.one_round(*a))),
    ("09.1", lambda v, a, d: list(suites.cheetah(v, a, d))),
]  # fmt: skip
