"""Exercises of notebooks 01-05: for each the right answer, inputs to try it on, and the usual mistakes."""

import numpy as np
from scipy.special import softmax

from pmeta_course.exercises.checkers import choice, function, normal, value
from pmeta_lib import moreau

_rng = np.random.default_rng


# ---- 01: objective, gradients, conflict
def _gradient(theta, d, Q, baseline=True, weight=True):
    pi = softmax(theta, -1)
    V = (pi * Q).sum(1, keepdims=True) if baseline else 0.0
    return d[:, None] * (pi if weight else 1.0) * (Q - V)


def _conflict_rate(g, pairs="distinct", sign=-1):
    flat = g.reshape(len(g), -1)
    gram = flat @ flat.T
    upper = gram[np.triu_indices(len(g), 1)] if pairs == "distinct" else gram.ravel()
    return float(np.mean(sign * upper > 0))


_STATES = [(r.normal(size=(S, A)), r.random(S) * 3, r.random((S, A)) * 9)
           for r, S, A in ((_rng(0), 4, 3), (_rng(1), 2, 2))]  # fmt: skip
_STATES += [(np.array([[0.3, -1.0], [0.0, 0.0]]), np.array([1.5, 0.0]), np.array([[2.0, 2.0], [1.0, 5.0]]))]
_OPPOSITE = np.array([[[1.0, 0]], [[-1.0, 0.2]], [[0.5, 1.0]], [[0.1, -1.0]], [[-1.0, -0.3]]])
_RIGHT_ANGLES = np.array([[[1.0, 0]], [[0.0, 2.0]], [[-1.0, 0.0]], [[0.0, 0.0]]])  # one pair in six conflicts
# 01.2: a0 stays, a1 moves to an absorbing state of reward 1; uniform policy, gamma = 0.9, D(s0) = 1 / (1 - 0.45)
_V = np.array([4.5 / 0.55, 10.0])
_ADVANTAGE = 0.9 * _V - _V[0]
EXERCISES = {
    "01.1": function(_gradient, _STATES, lambda t, d, Q: {
        "Q instead of the advantage: subtract the state's value V(s) = sum_a pi(a|s) Q(s,a)":
            _gradient(t, d, Q, baseline=False),
        "the factor pi(a|s) is missing": _gradient(t, d, Q, weight=False),
        "V(s) must be the mean of Q under pi, not the plain mean over actions":
            d[:, None] * softmax(t, -1) * (Q - Q.mean(1, keepdims=True)),
        "the occupancy D(s) is missing": _gradient(t, np.ones_like(d), Q),
        "softmax must normalise over the actions (last axis), not over the states":
            d[:, None] * softmax(t.T, -1).T * (Q - (softmax(t.T, -1).T * Q).sum(1, keepdims=True)),
    }, "the gradient"),
    "01.2": value(0.5 / 0.55 * _ADVANTAGE, {
        "you used the normalised occupancy (1 - gamma) D(s); T0 uses D(s), which sums to 1/(1 - gamma)":
            0.1 * 0.5 / 0.55 * _ADVANTAGE,
        "the factor pi(a|s) = 1/2 is missing": 1 / 0.55 * _ADVANTAGE,
        "that is the advantage; multiply by D(s) pi(a|s)": _ADVANTAGE,
        "the two actions are exchanged: a1 leads to the reward": 0.5 / 0.55 * _ADVANTAGE[::-1],
    }, "the gradient"),
    "01.3": function(lambda gamma: 1 / (1 - gamma), [(0.5,), (0.9,), (0.99,), (0.0,)], lambda gamma: {
        "rewards add up to 1 in every step, and there are infinitely many discounted steps": 1.0,
        "the first step is not discounted: the sum starts with gamma^0": gamma / (1 - gamma),
        "that is the effective weight of one step; the sum is its inverse": 1 - gamma,
        "that is the mean of the two returns; the question asks for their sum": 0.5 / (1 - gamma),
    }, "the sum of returns"),
    "01.4": function(_conflict_rate, [(_OPPOSITE,), (normal(2, 6, 2, 3),), (_RIGHT_ANGLES,)], lambda g: {
        "gradients at right angles do not conflict: count inner products *below* 0":
            np.mean((g.reshape(len(g), -1) @ g.reshape(len(g), -1).T)[np.triu_indices(len(g), 1)] <= 0),
        "a task was compared with itself: count pairs of different tasks only": _conflict_rate(g, pairs="all"),
        "this is the share of pairs that agree": _conflict_rate(g, sign=1),
        "this is the share of pairs that do not conflict": 1 - _conflict_rate(g),
        "this is the number of pairs, not their share": _conflict_rate(g) * len(g) * (len(g) - 1) / 2,
        "this is the mean cosine, not the share of negative ones":
            np.mean([(a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(g) for b in g[:i]]),
    }, "the conflict rate"),
}  # fmt: skip


# ---- 02: the personalized objective
def _prox(a, c, lam, theta):
    """Of a |x - c|: towards c by a/lambda, and not past it."""
    return c + np.sign(theta - c) * max(abs(theta - c) - a / lam, 0.0)


_CORNERS = [(1.0, 0.0, 2.0, 2.0), (4.0, 1.0, 2.0, -3.0), (0.5, -3.0, 0.1, 1.0), (1.0, 2.0, 4.0, 2.1)]
_CORNERS += [(1.0, 3.0, 2.0, 3.0), (2.0, 1.0, 4.0, 1.5)]  # theta at c, and a/lambda away from it
_CORNERS += [(1.0, 3.0, 2.0, 1.0), (1.0, -4.0, 2.0, -1.0)]  # between 0 and c, and far from it
_CURVES = [(1.0, 2.0), (4.0, 2.0), (-0.5, 2.0), (3.0, 99.0), (0.0, 2.0)]  # the last: a flat loss
_VECTORS = [(normal(s, *shape), normal(s + 9, *shape), 0.7 + s) for s, shape in enumerate([(), (3,), (2, 3, 2)])]
_VECTORS += [(np.ones(3), np.ones(3), 2.0)]
_DISTANCES = [(1.0, 3.0, 0.0, 1.0), (4.0, -1.0, 1.0, 0.5), (2.0, 1.0, -1.0, 0.1)]
EXERCISES |= {
    "02.1": function(_prox, _CORNERS, lambda a, c, lam, theta: {
        "past the corner: closer than a/lambda to c, the minimiser is c itself": theta - np.sign(theta - c) * a / lam,
        "past the corner: closer than a/lambda to c, and at c itself, the minimiser is c":
            theta - a / lam if theta > c else theta + a / lam,
        "that is the prox of a (x - c)^2 / 2; here the slope is a or -a, whatever the distance":
            (a * c + lam * theta) / (a + lam),
        "the step is upside down: a stiff spring (large lambda) must give way less": _prox(1.0, c, a / lam, theta),
        "that shrinks towards 0; this task wants c": _prox(a, 0.0, lam, theta),
        "the factor 1/2 of the penalty was lost: its derivative is lambda (x - theta)": _prox(a, c, 2 * lam, theta),
        "the step goes towards c: its sign is that of theta - c, not of theta":
            c + np.sign(theta) * max(abs(theta - c) - a / lam, 0.0),
        "that moves away from c": theta + np.sign(theta - c) * a / lam,
    }, "the prox"),
    "02.2": function(moreau.envelope_gradient, _VECTORS, lambda theta, prox, lam: {
        "the sign is wrong: uphill of the envelope points away from the prox": lam * (prox - theta),
        "lambda is missing": theta - prox,
        "lambda/2 belongs to the squared distance; its derivative has no 1/2": lam / 2 * (theta - prox),
        "that is the squared length; the gradient is a vector": lam * (theta - prox) ** 2,
    }, "the gradient"),
    "02.3": function(lambda a, c, theta, distance: a * (abs(c - theta) / distance - 1), _DISTANCES,
                     lambda a, c, theta, distance: {
        "a smaller distance needs a larger lambda: the fraction is upside down": a * (distance / abs(c - theta) - 1),
        "the term - a is missing: solve a |c - theta| = (a + lambda) distance": a * abs(c - theta) / distance,
        "the distance between c and theta has a sign here: take |c - theta|": a * ((c - theta) / distance - 1),
        "that is the pull at theta divided by the distance from the optimum, not from theta":
            a * distance / (abs(c - theta) - distance),
    }, "lambda"),
    "02.4": function(lambda a, lam: a * lam / (a + lam), _CURVES, lambda a, lam: {
        "that is the curvature of the inner problem, not of the envelope": a + lam,
        "that is the harmonic mean of a and lambda; the envelope has half of it": 2 * a * lam / (a + lam),
        "the envelope is flatter than f: its curvature is below a (for a > 0)": a,
        "use a itself, not |a|: where f bends down, the envelope bends down even more": abs(a) * lam / (abs(a) + lam),
        "that is how far the prox moves with theta": lam / (a + lam),
    }, "the curvature"),
}  # fmt: skip


# ---- 03: theory
def _phi(f, y, theta, lam, half=0.5, reduce=np.mean, squared=True):
    distance = ((y - theta) ** 2).sum((1, 2))
    return float(reduce(f + half * lam * (distance if squared else np.sqrt(distance))))


def _sampling_variance(g, n, without=True):
    N = len(g)
    sigma2 = ((g - g.mean(0)) ** 2).sum(1).mean()
    return float(sigma2 / n * ((N - n) / (N - 1) if without else 1.0))


_ROUNDS = [(10.0, 0.5, 0.1), (3.0, 2.0, 0.03), (7.7, 1.3, 0.5)]
_ROUNDS += [(1.0, 0.5, 0.5), (0.9375, 0.5, 0.5)]  # 16 and 15 exactly
_PHI = [(normal(4, 3), normal(5, 3, 4, 2), normal(6, 4, 2), 0.3),
        (normal(7, 5), normal(8, 5, 2, 2), np.ones((2, 2)), 2.0),
        (normal(9, 2), np.ones((2, 3, 2)), np.ones((3, 2)), 1.0)]  # fmt: skip
_SAMPLES = [(normal(10, 8, 5), 3), (normal(11, 4, 2), 4), (normal(12, 5, 3), 1)]
EXERCISES |= {
    "03.1": function(lambda lam, L: 1 / lam + 1 / L, [(1.0, 0.2), (0.01, 4.0), (3.0, 3.0)], lambda lam, L: {
        "1/(lambda + L) is the limit for the inner step s, not for the meta step": 1 / (lam + L),
        "that is L_up itself; the step may be as large as its inverse": lam * L / (lam + L),
        "that is the step for f; the envelope is flatter and allows more": 1 / L,
        "(lambda - L)/(lambda L) uses the bound on |curvature| (T1); descent needs only the upper one (T2)":
            1 / L - 1 / lam,
    }, "alpha"),
    "03.2": function(lambda gap, alpha, eps: int(np.ceil(2 * gap / (alpha * eps**2))), _ROUNDS,
                     lambda gap, alpha, eps: {
        "the bound is on the *squared* norm: use eps^2": int(np.ceil(2 * gap / (alpha * eps))),
        "off by one: round up, since fewer rounds do not suffice": int(np.floor(2 * gap / (alpha * eps**2))),
        "off by one: the smallest T with 2 gap/(alpha T) <= eps^2 needs no further round":
            int(np.ceil(2 * gap / (alpha * eps**2))) + 1,
        "the factor 2 is missing": int(np.ceil(gap / (alpha * eps**2))),
        "a number of rounds is an integer: round up and return an `int`": 2 * gap / (alpha * eps**2),
        "where the bound is met by a whole number, that number is the answer: `int(x) + 1` is one too many":
            int(2 * gap / (alpha * eps**2)) + 1,
    }, "T", whole=True),
    "03.3": function(_phi, _PHI, lambda f, y, theta, lam: {
        "the factor 1/2 of the penalty is missing": _phi(f, y, theta, lam, half=1.0),
        "Phi is the mean over tasks, not the sum": _phi(f, y, theta, lam, reduce=np.sum),
        "the distance must be squared": _phi(f, y, theta, lam, squared=False),
        "the penalty has the wrong sign": _phi(f, y, theta, lam, half=-0.5),
        "the squared distance sums over all parameters; you averaged them":
            np.mean(f + lam / 2 * ((y - theta) ** 2).mean((1, 2))),
    }, "Phi"),
    "03.4": function(_sampling_variance, _SAMPLES, lambda g, n: {
        "that is sampling *with* replacement; a task is drawn at most once": _sampling_variance(g, n, without=False),
        "off by one: the factor is (N - n)/(N - 1), not (N - n)/N":
            ((g - g.mean(0)) ** 2).sum(1).mean() / n * (len(g) - n) / len(g),
        "sigma^2 sums the squares over all parameters; you averaged them": _sampling_variance(g, n) / g.shape[1],
        "you forgot to subtract the mean gradient": (g**2).sum(1).mean() / n * (len(g) - n) / (len(g) - 1),
    }, "the variance"),
}  # fmt: skip


# ---- 04: the algorithm
def _inner(ascent, w, y, lam, s, K, at=None, pull=True, sign=1.0):
    for _ in range(K):
        y = y + s * (sign * ascent(w if at == "w" else y) - (lam * (y - w) if pull else 0.0))
    return y


def _round(theta, y, ascents, lam, eta, beta, s, K, warm=True, aggregate=np.mean, meta=1.0):
    y = np.stack([_inner(g, theta, yi if warm else theta, lam, s, K) for g, yi in zip(ascents, y)])
    w = theta - meta * eta * lam * (theta - y)
    return (1 - beta) * theta + beta * aggregate(w, axis=0), y


def _quadratic(a, c):
    return lambda x: -a * (x - c)


_ASCENTS = [_quadratic(1.0, np.zeros(2)), _quadratic(4.0, np.ones(2)), _quadratic(2.0, np.array([3.0, -1.0]))]
_INNER = [(_ASCENTS[K % 3], normal(K, 2), normal(K + 9, 2), lam, s, K)
          for K, lam, s in ((1, 0.7, 0.1), (2, 3.0, 0.05), (5, 0.2, 0.3), (0, 1.0, 0.2))]  # fmt: skip
_SHARES = [(0.5, 0.01, 100.0, 1.0), (0.3, 0.2, 2.5, 0.5), (2.0, 4.0, 0.5, 0.9)]
_ROUND = [(np.array([0.3, -0.2]), np.array([[0.1, 0.4], [0.8, 0.9]]), _ASCENTS[:2], 0.5, 1.5, 0.6, 0.1, 3),
          (np.array([1.0, 2.0]), normal(12, 3, 2), _ASCENTS[::-1], 0.2, 0.5, 0.9, 0.05, 1),
          (np.array([-1.0, 0.5]), normal(13, 3, 2), _ASCENTS, 0.4, 2.0, 0.7, 0.2, 0)]  # fmt: skip
EXERCISES |= {
    "04.1": function(_inner, _INNER, lambda g, w, y, lam, s, K: {
        "the gradient is taken at w; it belongs at the present y": _inner(g, w, y, lam, s, K, at="w"),
        "the pull - lambda (y - w) is missing": _inner(g, w, y, lam, s, K, pull=False),
        "J is a return: climb, do not descend": _inner(g, w, y, lam, s, K, sign=-1.0),
        "the pull goes towards w, not towards 0": _inner(g, 0 * w, y, lam, s, K),
        "the pull goes towards w, not towards -w: it is - lambda (y - w)": _inner(g, -w, y, lam, s, K),
        "the pull points away from w: it is - lambda (y - w)": _inner(g, w, y, -lam, s, K),
        "off by one: one inner step too few": _inner(g, w, y, lam, s, K - 1),
        "with K = 0 nothing moves": _inner(g, w, y, lam, s, max(K, 1)),
        "off by one: one inner step too many": _inner(g, w, y, lam, s, K + 1),
        "you started at w (cold); this function starts at the y it was given (warm)": _inner(g, w, w, lam, s, K),
    }, "y"),
    "04.2": function(_round, _ROUND, lambda *a: {
        "the inner loop restarts at theta (cold start); keep each task's y (warm)": _round(*a, warm=False),
        "the sum of the w_i instead of their mean": _round(*a, aggregate=np.sum),
        "eta * lambda is missing: w_i = theta - eta lambda (theta - y_i)":
            ((1 - a[5]) * a[0] + a[5] * _round(*a)[1].mean(0), _round(*a)[1]),
        "w must move *towards* y: w = w - eta lambda (w - y)": _round(*a, meta=-1.0),
        "beta is missing in the aggregation": _round(*a[:5], 1.0, *a[6:]),
        "beta and 1 - beta are exchanged": _round(*a[:5], 1 - a[5], *a[6:]),
        "off by one: one inner step too few": _round(*a[:7], a[7] - 1),
    }, "theta", "y"),
    "04.3": function(lambda alpha, lam, eta, beta: alpha / (beta * eta * lam), _SHARES, lambda alpha, lam, eta, beta: {
        "that is the step of joint ascent which a given s makes; solve for s": alpha * beta * eta * lam,
        "beta is missing: the aggregation scales the step too": alpha / (eta * lam),
        "eta is missing": alpha / (beta * lam),
        "lambda is missing: w moves by eta lambda (y - w)": alpha / (beta * eta),
    }, "s"),
    "04.4": choice(6, {
        1: "line 1 gives every task its own copy of theta: that is how a round starts",
        2: "line 2 repeats K times, as it should",
        3: "line 3 takes the gradients at the present y of each task: correct",
        4: "line 4 is the inner step, the gradient minus the pull towards w: correct",
        5: "line 5 moves w towards y by the share eta lambda: correct",
    }),
}  # fmt: skip


# ---- 05: experiments
_J = [
    (np.array([3.0, 5.0, 2.0]), np.array([1.0, 2.0, 1.5]), np.array([4.0, 9.0, 3.0])),
    (_rng(13).random(5) + 1, _rng(14).random(5), _rng(15).random(5) + 3),
    (np.array([1.0, 0.5]), np.array([1.0, 2.0]), np.array([3.0, 4.0])),
]  # one as good as uniform, one worse
_TUNE = [
    (np.array([[1.0, 9.0], [6.0, 6.0], [5.0, 2.0]]), np.array([[3.0, 8.0], [4.0, 5.0], [9.0, 1.0]])),
    (_rng(16).random((4, 3)), _rng(17).random((4, 6))),
    (np.array([[5.0, 5.0, 0.0], [4.0, 4.0, 4.0]]), np.array([[1.0, 2.0], [7.0, 9.0]])),
]  # mean or median?
_PAIRS = [(normal(s, 12), normal(s + 1, 12), _rng(s + 2).integers(12, size=(400, 12))) for s in (20, 30)]
EXERCISES |= {
    "05.1": function(lambda J, u, b: 100 * np.mean((J - u) / (b - u)), _J, lambda J, u, b: {
        "on the scale 0 to 1; the course uses 0 to 100": np.mean((J - u) / (b - u)),
        "a task may end below its uniform policy: no clipping at 0": 100 * np.mean(np.clip((J - u) / (b - u), 0, 1)),
        "normalise each task first, then average: rich tasks would dominate":
            100 * (J.mean() - u.mean()) / (b.mean() - u.mean()),
        "the uniform policy must score 0: subtract it above and below": 100 * np.mean(J / b),
        "subtract the uniform policy's return in the denominator too": 100 * np.mean((J - u) / b),
    }, "the normalised return"),
    "05.2": function(lambda a, b, index: np.percentile((a - b)[index].mean(1), [2.5, 97.5]), _PAIRS,
                     lambda a, b, index: {
        "the two learners were resampled apart; resample the *differences* of a seed (paired)":
            np.percentile(a[index].mean(1) - b[index[::-1]].mean(1), [2.5, 97.5]),
        "that is a 90 % interval; 95 % lies between the 2.5th and the 97.5th percentile":
            np.percentile((a - b)[index].mean(1), [5, 95]),
        "these are percentiles of single seeds; take the mean of every resample first":
            np.percentile(a - b, [2.5, 97.5]),
        "that is b - a: positive must mean that a is better": np.percentile((b - a)[index].mean(1), [2.5, 97.5]),
    }, "the interval"),
    "05.3": choice("c", {
        "a": "an interval that contains 0 does not show that the learners are equal, only that these seeds "
             "cannot tell them apart",
        "b": "the point estimate is positive, but the interval contains 0: other seeds may change the sign",
        "d": "more seeds are welcome if their number is fixed before; stopping when the interval looks good "
             "is choosing the result",
    }),
    "05.4": function(lambda tuning, evaluation: evaluation[tuning.mean(1).argmax()].mean(), _TUNE,
                     lambda tuning, evaluation: {
        "the best lambda was chosen on the evaluation seeds: that is peeking": evaluation.mean(1).max(),
        "that is the tuning score; report the evaluation seeds": tuning.mean(1).max(),
        "lambda was chosen anew for every evaluation seed: also peeking": evaluation.max(0).mean(),
        "choose by the mean over tuning seeds, not by their median": evaluation[np.median(tuning, 1).argmax()].mean(),
        "choose by the mean over tuning seeds, not by the single best run": evaluation[tuning.max(1).argmax()].mean(),
    }, "the score"),
}  # fmt: skip
