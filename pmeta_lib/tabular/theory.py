"""The constants and bounds T0-T10, each a function with its conditions, and `hold(run)`: a run against them.

f_i = -J_i^tau is L-smooth, F_i its Moreau envelope, `alpha = beta eta`. The statements are ours, proved in
the course's notebook 03; T8 and T9 rest on Agarwal, Kakade, Lee and Mahajan (JMLR 2021), T10 on Mei, Xiao,
Szepesvari and Schuurmans (ICML 2020), the objective on pFedMe (Dinh, Tran and Nguyen, NeurIPS 2020).
"""

from itertools import combinations
from math import comb, inf, sqrt

import numpy as np
import pandas as pd

from pmeta_lib import moreau
from pmeta_lib.files import UserError
from pmeta_lib.tabular.algorithm import copies
from pmeta_lib.tabular.loop import History
from pmeta_lib.tabular.mdp import TaskBatch, check_number, optimal_policies, optimal_values
from pmeta_lib.tabular.policies import exact, objective, returns, softmax
from pmeta_lib.tabular.proximal import prox


def smoothness(tasks: TaskBatch, tau: float = 0.0) -> float:
    """L of T8: `8/(1-gamma)^3` times the range of the rewards (1 at least for [0, 1]), plus the barrier's.

    The barrier adds `tau/(2S)`: the variance of a bounded variable is at most a quarter of its range squared.
    """
    span = max(tasks.r.max(), 1.0) - min(tasks.r.min(), 0.0)
    return 8.0 * span / (1.0 - tasks.gamma) ** 3 + tau / (2.0 * tasks.shape[1])


def largest_known_curvature(gamma: float) -> float:
    """`1/(3 sqrt3 (1-gamma))`, the largest curvature we found anywhere (a two-action bandit); not a bound."""
    return 1.0 / (3.0 * sqrt(3.0) * (1.0 - gamma))


def curvature(
    tasks: TaskBatch, theta: np.ndarray, generator: np.random.Generator, tau: float = 0.0, steps: int = 30
) -> np.ndarray:
    """(N,) largest |eigenvalue| of the Hessian of J_i^tau at theta, from below, by power iteration."""
    product = exact(tasks, theta, tau)[1]
    v, size = generator.standard_normal(tasks.shape), np.ones((len(tasks), 1, 1))
    for _ in range(steps):
        v = v / np.maximum(size, 1e-300)
        v = product(v)
        size = np.sqrt((v**2).sum((-2, -1), keepdims=True))
    return size[:, 0, 0]


def envelope_smoothness(L: float, lam: float) -> float:
    """T1, for lam > L: F is `lam L/(lam - L)`-smooth; infinite otherwise."""
    return lam * L / (lam - L) if lam > L else inf


def upper_smoothness(L: float, lam: float) -> float:
    """T2, for any lam > 0 and a global prox: the upper curvature of F, `lam L/(lam + L)`."""
    return lam * L / (lam + L)


def largest_step(L: float, lam: float) -> float:
    """T3: the largest alpha = beta eta of the descent bound, `1/lam + 1/L`."""
    return 1.0 / lam + 1.0 / L


def descent_bound(gap: float, alpha: float, rounds: int, error: float = 0.0) -> float:
    """T3, T4: mean of ||g_t||^2 over rounds <= `2 gap/(alpha T) + mean ||e_t||^2`, gap >= F(theta^0) - inf F.

    Conditions: full participation, R = 1, alpha <= largest_step, lam > L or else a global prox; error 0 if
    the prox is exact.
    """
    return 2.0 * gap / (alpha * rounds) + error


def inner_contraction(L: float, lam: float, inner_steps: int) -> float:
    """T4, for lam > L and s = 1/lam: K inner steps shrink the distance to the prox by `(L/lam)^K`."""
    return (L / lam) ** inner_steps


def sampling_variance(gradients: np.ndarray, n: int) -> float:
    """T6: variance of the mean of n of the N `gradients` without replacement, `sigma^2 (N-n)/(n(N-1))`."""
    N = len(gradients)
    flat = gradients.reshape(N, -1)
    sigma2 = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    return float(sigma2 * (N - n) / (n * (N - 1))) if N > 1 else 0.0


def sampling_bound(gap: float, alpha: float, rounds: int, L: float, lam: float, variance: float) -> float:
    """T6, in expectation: `2 gap/(alpha T) + alpha L_F variance`.

    Conditions: lam > L, exact prox, R = 1, alpha <= largest_step.
    """
    return descent_bound(gap, alpha, rounds) + alpha * envelope_smoothness(L, lam) * variance


def required_decrease(run: History) -> np.ndarray:
    """(T,) T5: what Phi must lose in each round, `(s/2) inner_square + lam c (1 - c/2) ||theta - mean y||^2`.

    Conditions: any lam > 0, warm start, full participation, R = 1, s <= 1/(L + lam), c = alpha lam in (0, 2).
    """
    s = run.settings
    c = s["beta"] * s["eta"] * s["lam"]
    pull = c * (1 - c / 2) * run.gradient_norm**2 / s["lam"]
    return s["inner_step_size"] / 2 * run.inner_square + pull


def rate(run: History, start: float = 0.1) -> float:
    """Log-log slope of the best squared gradient norm so far, over the rounds after the first `start` share.

    T3 and T5 make it -1 or steeper in the long run (a summable sequence's running minimum is o(1/T)).
    """
    best = np.minimum.accumulate(run.gradient_norm**2)
    t = np.arange(1, len(best) + 1)
    keep = (t > start * len(best)) & (best > 1e-28)
    return float(np.polyfit(np.log(t[keep]), np.log(best[keep]), 1)[0]) if keep.sum() > 1 else -inf


def barrier_threshold(tasks: TaskBatch, tau: float) -> float:
    """T9: the gradient norm of J^tau below which `barrier_bound` holds, `tau/(2 S A)`."""
    return tau / (2.0 * tasks.shape[1] * tasks.shape[2])


def occupancies(tasks: TaskBatch, pi: np.ndarray) -> np.ndarray:
    """(N, S) normalised discounted occupancies (rows sum to 1) of the policies pi (N, S, A)."""
    system = np.eye(tasks.shape[1]) - tasks.gamma * np.einsum("nsa,nsat->nst", pi, tasks.P)
    return (1 - tasks.gamma) * np.linalg.solve(system.swapaxes(1, 2), tasks.rho[..., None])[..., 0]


def barrier_bound(tasks: TaskBatch, tau: float) -> np.ndarray:
    """T9 (N,): `(2 tau/(1-gamma)) max_s d*(s)/mu(s)`; infinite where the starts mu lack support."""
    star = occupancies(tasks, np.eye(tasks.shape[2])[optimal_policies(tasks)[0]])
    ratio = np.divide(star, tasks.rho, out=np.where(star > 1e-14, inf, 0.0), where=tasks.rho > 0)
    return 2.0 * tau / (1.0 - tasks.gamma) * ratio.max(-1)


def certificate(tasks: TaskBatch, personal: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """T10 (N,): an upper bound on `J_i* - J_i(theta_i)`, tau = 0; slope (N,) bounds ||grad J_i(theta_i)||.

    `sqrt(S) max_s(d*/d) / min_s pi_i(a*|s) * slope`; at a prox, slope = lam ||theta - theta_i||.
    """
    actions = optimal_policies(tasks)[0]
    pi = np.broadcast_to(softmax(personal), tasks.shape)
    star, d = occupancies(tasks, np.eye(tasks.shape[2])[actions]), occupancies(tasks, pi)
    ratio = np.divide(star, d, out=np.zeros_like(d), where=star > 1e-14).max(-1)
    least = np.take_along_axis(pi, actions[..., None], -1)[..., 0].min(-1)
    return sqrt(tasks.shape[1]) * ratio / np.maximum(least, 1e-300) * slope


def _norms(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).sum((-2, -1)))


class _Table:
    """Collects the rows of `hold`; a bound holds if measured <= bound up to rounding."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(self, statement: str, conditions: dict[str, bool], compute) -> None:
        unmet = [text for text, met in conditions.items() if not met]
        row = {"statement": statement, "condition": "; ".join(conditions) or "none", "met": not unmet}
        row |= {"unmet": "; ".join(unmet)} | dict.fromkeys(("bound", "measured", "slack"), np.nan)
        row["holds"] = None
        if not unmet:
            bound, measured = (float(x) for x in compute())
            room = 1e-9 * max(1.0, abs(bound) if np.isfinite(bound) else 1.0)
            row |= {"bound": bound, "measured": measured, "slack": bound - measured}
            row["holds"] = measured <= bound + room
        self.rows.append(row)


def hold(run: History, L: float | None = None, generator: np.random.Generator | None = None) -> pd.DataFrame:
    """Hold a run of `pmeta` against every statement that can be checked on it.

    Args:
        run: of `pmeta`; with `trace=True` T3, T4 and the rate of T6 are checked too.
        L: the smoothness constant to use; by default the proven one of T8, which is loose by orders of
            magnitude, so that few conditions are met in practice. A measured L makes them testable,
            not proven.
        generator: directions of the finite-difference checks; default_rng(0) by default.

    Returns:
        One row a statement: statement, condition, met (are all conditions?), unmet (which are not), bound,
        measured, slack = bound - measured, holds (None where a condition is not met).

    Raises:
        UserError: not a run of pmeta, lam = 0, or L not above 0.
    """
    s, tasks, tau = run.settings, run.tasks, run.settings["tau"]
    lam, K, step, T = s["lam"], s["inner_steps"], s["inner_step_size"], len(run.meta_return)
    if run.learner != "pmeta" or lam <= 0 or T < 1:
        raise UserError(f"hold needs a pmeta run with lam > 0 and a round or more, not {run.learner}, lam={lam}.")
    rng = np.random.default_rng(0) if generator is None else generator
    L, N = smoothness(tasks, tau) if L is None else check_number("L", L, above=0), len(tasks)
    alpha = s["beta"] * s["eta"]
    c = alpha * lam
    theta, personal, full = run.theta, run.personal, s["tasks_per_round"] == N
    best, strong = optimal_values(tasks), {"lam > L": lam > L}
    is_exact, one_step = {"exact gradients": s["oracle"] is exact}, {"R = 1": s["local_steps"] == 1}
    everyone = {"all tasks each round": full}
    table = _Table()

    def directional() -> tuple[float, float]:
        u, e = rng.standard_normal(tasks.shape) / sqrt(tasks.r[0].size), 1e-5
        slope = (objective(tasks, personal + e * u, tau) - objective(tasks, personal - e * u, tau)) / (2 * e)
        return 1e-6 / (1 - tasks.gamma) ** 2, np.abs(slope - (exact(tasks, personal, tau)[0] * u).sum((1, 2))).max()

    table.add("T0 policy gradient = finite difference", {}, directional)

    p = {}  # proxes, computed once and only where a condition asks for them

    def prox_at(name: str, point: np.ndarray) -> np.ndarray:
        if name not in p:
            p[name] = prox(tasks, point, lam, tau)
        return p[name]

    def first_order() -> tuple[float, float]:
        x = prox_at("end", theta)
        return 1e-8, _norms(moreau.envelope_gradient(theta, x, lam) + exact(tasks, x, tau)[0]).max()

    def envelope_lipschitz() -> tuple[float, float]:
        ends = [moreau.envelope_gradient(a, prox_at(k, a), lam) for k, a in (("start", run.theta0), ("end", theta))]
        return envelope_smoothness(L, lam) * _norms(theta - run.theta0), _norms(ends[1] - ends[0]).max()

    def upper() -> tuple[float, float]:
        x, y, at_x, at_y = run.theta0, theta, prox_at("start", run.theta0), prox_at("end", theta)
        F = [moreau.envelope(-objective(tasks, q, tau), q, z, lam, (-2, -1)) for q, z in ((at_x, x), (at_y, y))]
        model = F[0] + (lam * (x - at_x) * (y - x)).sum((1, 2))
        return upper_smoothness(L, lam) / 2 * _norms(y - x) ** 2, (F[1] - model).max()

    def contraction() -> tuple[float, float]:
        target, y = prox_at("end", theta), copies(theta, N)
        start = _norms(y - target)
        for _ in range(K):
            y = moreau.inner_step(y, exact(tasks, y, tau)[0], theta, lam, 1.0 / lam)
        return (inner_contraction(L, lam, K) * start + 1e-9).max(), _norms(y - target).max()

    table.add("T1 grad F_i = lam (theta - prox) = grad f_i(prox)", strong, first_order)
    table.add("T1 F is lam L/(lam - L)-smooth", strong, envelope_lipschitz)
    table.add("T2 upper curvature of F_i is lam L/(lam + L)", strong, upper)
    if run.trace is not None:
        _descent_rows(table, run, L, strong | is_exact | one_step, everyone, best)
    table.add("T4 K inner steps contract by (L/lam)^K", strong, contraction)

    descent = is_exact | everyone | one_step | {
        "warm start": bool(s["warm_start"]), "s <= 1/(L + lam)": step * (L + lam) <= 1 + 1e-12,
        "c = beta eta lam in (0, 2)": 0 < c < 2,
    }  # fmt: skip
    table.add(
        "T5 Phi falls by the required amount in each round", descent,
        lambda: (0.0, (required_decrease(run) + np.diff(run.potential)).max()),
    )  # fmt: skip
    table.add(
        "T5 best required decrease is O(1/T)", descent,
        lambda: ((run.potential[0] + best.mean()) / T, required_decrease(run).min()),
    )  # fmt: skip
    n = s["tasks_per_round"]

    def identity() -> tuple[float, float]:
        g = moreau.envelope_gradient(theta, personal, lam).reshape(N, -1)
        sets = np.array(list(combinations(range(N), n)))
        spread = ((g[sets].mean(1) - g.mean(0)) ** 2).sum(1).mean()
        return 1e-10 * (1 + spread), abs(spread - sampling_variance(g, n))

    few = {"n < N": not full, "few enough subsets to enumerate": comb(N, n) <= 5000}
    table.add("T6 variance of the sampled meta-gradient", few, identity)
    met_on_the_way = (run.theta0, theta, personal)
    table.add(
        "T8 curvature met on the way <= 8/(1-gamma)^3", {},
        lambda: (smoothness(tasks, tau), max(curvature(tasks, x, rng, tau, 8).max() for x in met_on_the_way)),
    )  # fmt: skip
    slopes = _norms(exact(tasks, personal, tau)[0])
    gap = best - returns(tasks, personal)
    near = slopes <= barrier_threshold(tasks, tau)
    support = {"tau > 0": tau > 0, "start distribution has full support": bool((tasks.rho > 0).all())}
    table.add(
        "T9 log barrier: near-stationary is near-optimal",
        support | {"||grad J^tau|| <= tau/(2SA) for a task": bool(near.any())},
        lambda: (0.0, (gap - barrier_bound(tasks, tau))[near].max()),
    )
    residual = _norms(exact(tasks, personal)[0] - lam * (personal - theta))
    table.add(
        "T10 certificate on J* - J of each personalized policy", {"tau = 0": tau == 0},
        lambda: (0.0, (gap - certificate(tasks, personal, lam * _norms(personal - theta) + residual)).max()),
    )  # fmt: skip
    opposed = N == 2 and np.array_equal(tasks.P[0], tasks.P[1]) and np.allclose(tasks.r.sum(0), 1.0)
    table.add(
        "Full conflict: J_1 + J_2 = 1/(1-gamma) for the meta-policy",
        {
            "two tasks, shared P, r_2 = 1 - r_1": bool(opposed),
            "equal starts": np.array_equal(*tasks.rho[[0, -1]]),
        },
        lambda: (1e-9, abs(returns(tasks, theta).sum() - 1 / (1 - tasks.gamma))),
    )
    return pd.DataFrame(table.rows)


def _descent_rows(table: _Table, run: History, L: float, base: dict, everyone: dict, best: np.ndarray) -> None:
    """T3, T4 and T6: the exact envelope gradient at every theta^t, all rounds in one batch of T N tasks."""
    s, tasks, N, T = run.settings, run.tasks, len(run.tasks), len(run.meta_return)
    lam, alpha = s["lam"], s["beta"] * s["eta"]
    conditions = base | {"alpha <= 1/lam + 1/L": alpha <= largest_step(L, lam) * (1 + 1e-12)}
    if not all(conditions.values()):
        for name in ("T3 mean ||grad F||^2, exact prox", "T4 mean ||grad F||^2, inexact prox"):
            table.add(name, conditions | everyone, lambda: (np.nan, np.nan))
        table.add("T6 mean ||grad F||^2 (in expectation)", conditions, lambda: (np.nan, np.nan))
        return
    starts = run.trace["theta"][:-1]
    many = tasks[np.tile(np.arange(N), T)]
    proxes = prox(many, np.repeat(starts, N, 0), lam, s["tau"]).reshape(T, *tasks.shape)
    g = moreau.envelope_gradient(starts[:, None], proxes, lam)
    followed = moreau.envelope_gradient(starts, run.trace["personal"][1:].mean(1), lam)
    error = _norms(followed - g.mean(1)) ** 2
    measured = (_norms(g.mean(1)) ** 2).mean()
    f0 = moreau.envelope(-objective(tasks, proxes[0], s["tau"]), proxes[0], starts[0], lam, (-2, -1)).mean()
    gap = f0 + best.mean()
    exact_prox = {"exact prox (error below 1e-8)": bool(error.max() < 1e-16)}
    table.add(
        "T3 mean ||grad F||^2, exact prox", conditions | everyone | exact_prox,
        lambda: (descent_bound(gap, alpha, T) + 1e-12, measured),
    )  # fmt: skip
    table.add(
        "T4 mean ||grad F||^2, inexact prox", conditions | everyone,
        lambda: (descent_bound(gap, alpha, T, error.mean()), measured),
    )  # fmt: skip
    n = s["tasks_per_round"]
    solved = {"inner problems solved to 1e-3": (L / lam) ** s["inner_steps"] <= 1e-3, "n < N": n < N}
    variance = max(sampling_variance(x, n) for x in g)
    table.add(
        "T6 mean ||grad F||^2 (in expectation)", conditions | solved,
        lambda: (sampling_bound(gap, alpha, T, L, lam, variance), measured),
    )  # fmt: skip
