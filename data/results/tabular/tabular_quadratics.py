"""T3 to T7 on one-dimensional quadratics, where every constant is known and every optimum has a closed form.

Nothing here runs the library's learner: the scheme is written out again, so that the bounds of
`pmeta_course.theory` are held against other code than the one they were written for.
"""

from itertools import combinations
from math import inf

import numpy as np
from pmeta_course import theory
from pmeta_course.counterexamples import quadratic_fixed_point, quadratic_run

SETTINGS = {"random MDPs": 0, "bandits": 10_000, "quadratics": 20_000}  # where the numbers of their runs begin


def quadratics(rng: np.random.Generator, N: int) -> tuple[np.ndarray, np.ndarray]:
    """Curvatures a (N,) between 0.5 and 4 and optima c (N,) of `f_i(x) = (a_i/2) (x - c_i)^2`."""
    return rng.uniform(0.5, 4.0, N), rng.normal(size=N)


def _row(statement: str, bound: float, measured: float, margin: float | None = None) -> dict:
    margin = (bound / measured if measured > 0 else inf) if margin is None else margin
    holds = bool(measured <= bound + 1e-9 * max(1.0, abs(bound)))
    return {"statement": statement, "met": True, "bound": bound, "measured": measured, "margin": margin, "holds": holds}


def _decrease(a, c, theta, lam, share, step, K, rounds, n, rng) -> dict:
    """T5 with a meta step over all y, n tasks drawn: what Phi lost in each round and what it had to lose."""
    y, N, L = np.full(len(a), theta), len(a), a.max()

    def phi() -> float:
        return float((a / 2 * (y - c) ** 2 + lam / 2 * (y - theta) ** 2).mean())

    required, fall, before = [], [], phi()
    for _ in range(rounds):
        drawn, squares = rng.choice(N, n, replace=False), 0.0
        for _ in range(K):
            slope = a[drawn] * (y[drawn] - c[drawn]) + lam * (y[drawn] - theta)
            squares += (slope**2).sum() / N
            y[drawn] -= step * slope
        pull = lam * share * (1 - share / 2) * (theta - y.mean()) ** 2
        theta += share * (y.mean() - theta)
        required.append(step * (1 - step * (L + lam) / 2) * squares + pull)
        fall.append(before - phi())
        before = phi()
    required, fall = np.array(required), np.array(fall)
    real = required > 1e-8  # below that rounding decides
    margin = (fall[real] / required[real]).min(initial=inf)
    return _row("T5 Phi falls by the required amount in each round", 0.0, (required - fall).max(), margin)


def _sampled(k, c, theta, alpha, rounds, n, L, lam, gap) -> dict:
    """T6 with nothing drawn at all: the expectations follow from the first two moments of theta, round by round."""
    sets = np.array(list(combinations(range(len(k)), n)))
    slopes, ends = k[sets].mean(1), (k * c)[sets].mean(1)  # a sampled gradient is slope theta - end
    first, second, squares, variances = theta, theta**2, [], []

    def square(x: np.ndarray, y: np.ndarray) -> float:
        """The mean of (x theta - y)^2 over subsets and over theta."""
        return float((x**2 * second - 2 * x * y * first + y**2).mean())

    for _ in range(rounds):
        squares.append(square(slopes.mean(), ends.mean()))
        variances.append(square(slopes - slopes.mean(), ends - ends.mean()))
        cross = (slopes * second - ends * first).mean()
        second += alpha**2 * square(slopes, ends) - 2 * alpha * cross
        first -= alpha * (slopes * first - ends).mean()
    bound = theory.sampling_bound(gap, alpha, rounds, L, lam, np.array(variances))
    return _row("T6 mean ||grad F||^2 (in expectation)", bound, float(np.mean(squares)))


def quadratic_statements(seed: int) -> list[dict]:
    """T3, T4, T5, T6 and T7 on one random set of quadratics, as rows of `theory.hold`."""
    rng = np.random.default_rng([seed, 33])
    N, rounds, K = int(rng.integers(2, 6)), int(rng.choice([3, 20, 100])), int(rng.integers(1, 6))
    a, c = quadratics(rng, N)
    L, theta = a.max(), float(rng.normal(scale=3.0))
    lam = L * 10 ** rng.uniform(0.1, 1.0)  # above L: T4 needs it, the others hold for any
    k = a * lam / (a + lam)
    alpha = rng.uniform(0.2, 1.0) * theory.largest_step(L, lam)
    step = rng.uniform(0.2, 1.9) / (L + lam)

    def F(x: float) -> float:
        return float((k / 2 * (x - c) ** 2).mean())

    gap = F(theta) - F((k * c).sum() / k.sum())
    common = dict(rounds=rounds, lam=lam, eta=alpha, theta0=theta)
    path = quadratic_run(a, c, inner_steps=None, **common)[0][:-1]
    squares = (k * (path[:, None] - c)).mean(1) ** 2
    rows = [_row("T3 mean ||grad F||^2, exact prox", theory.descent_bound(gap, alpha, rounds), squares.mean())]
    path = quadratic_run(a, c, inner_steps=K, inner_step_size=step, warm_start=bool(seed % 2), **common)[0]
    g = (k * (path[:-1, None] - c)).mean(1)
    error = ((path[:-1] - path[1:]) / alpha - g) ** 2
    bound = theory.descent_bound(gap, alpha, rounds, error.mean())
    rows.append(_row("T4 mean ||grad F||^2, inexact prox", bound, (g**2).mean()))
    bends = np.array([-L, L])  # the two extremes of the curvature; the prox of (b/2) x^2 is lam theta/(b + lam)
    start = abs(theta - lam * theta / (bends + lam))
    left = start * abs(1 - step * (lam + bends)) ** K
    bound = start * theory.inner_contraction(L, lam, K, step)
    rows.append(
        _row("T4 K inner steps contract as the run's own s makes them", bound.max(), left.max(), (bound / left).min())
    )
    share, n = rng.uniform(0.1, 1.9), int(rng.integers(1, N + 1))
    rows.append(_decrease(a, c, theta, lam, share, step, K, rounds, n, rng))
    rows.append(_sampled(k, c, theta, alpha, rounds, max(1, N // 2), L, lam, gap))
    R = int(rng.integers(2, 6))
    end = quadratic_run(a, c, rounds=600, lam=lam, eta=alpha, inner_steps=None, local_steps=R)[0][-1]
    miss = abs(end - quadratic_fixed_point(a, c, lam, alpha, R))
    return [*rows, _row("T7 fixed point of R local steps", 1e-9, miss, np.nan)]
