"""The constants and bounds T0-T10, each a function with its conditions, and `hold(run)`: a run against them.

f_i = -J_i^tau is L-smooth, F_i its Moreau envelope, `alpha = beta eta`. The statements are ours, proved in
the course's notebook 03; T8 and T9 rest on Agarwal, Kakade, Lee and Mahajan (JMLR 2021), T10 on Mei, Xiao,
Szepesvari and Schuurmans (ICML 2020), the objective on pFedMe (Dinh, Tran and Nguyen, NeurIPS 2020).
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations
from math import comb, inf, nan, sqrt
from typing import Any

import numpy as np
import pandas as pd

from pmeta_lib import moreau
from pmeta_lib.files import UserError
from pmeta_lib.tabular.algorithm import pmeta
from pmeta_lib.tabular.loop import History, copies
from pmeta_lib.tabular.mdp import TaskBatch, check_number, optimal_policies, optimal_values, under_policy
from pmeta_lib.tabular.policies import exact, objective, returns, softmax
from pmeta_lib.tabular.proximal import prox


def smoothness(tasks: TaskBatch, tau: float = 0.0) -> float:
    """L of T8: `8/(1-gamma)^3` times the range of the rewards (1 at least for [0, 1]), plus the barrier's `tau/(2S)`:
    the variance of a bounded variable is at most a quarter of its range squared."""
    span = max(tasks.r.max(), 1.0) - min(tasks.r.min(), 0.0)
    return 8.0 * span / (1.0 - tasks.gamma) ** 3 + tau / (2.0 * tasks.shape[1])


def bandit_smoothness(tasks: TaskBatch) -> float:
    """The exact L of two-armed bandits: the largest difference of their arms' rewards / (3 sqrt3 (1-gamma)).

    Thousands of times below T8, and yet no bound on other tasks (a chain of 79 states reaches thirteen times as much).
    UserError unless S = 1 and A = 2.
    """
    if tasks.shape[1:] != (1, 2):
        raise UserError(f"tasks have (S, A) = {tasks.shape[1:]}, not (1, 2); only two-armed bandits have this L.")
    return float(np.ptp(tasks.r, axis=-1).max()) / (3.0 * sqrt(3.0) * (1.0 - tasks.gamma))


def curvature(
    tasks: TaskBatch, theta: np.ndarray, generator: np.random.Generator, tau: float = 0.0, steps: int = 30
) -> np.ndarray:
    """(N,) largest |eigenvalue| of the Hessian of J_i^tau at theta, from below, by power iteration."""
    product = exact(tasks, theta, tau)[1]
    v, size = generator.standard_normal(tasks.shape), np.ones((len(tasks), 1, 1))
    for _ in range(steps):
        v = product(v / np.maximum(size, 1e-300))
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

    Conditions: full participation, R = 1, alpha <= largest_step, lam > L or else a global prox; error 0 if it is exact.
    """
    return 2.0 * gap / (alpha * rounds) + error


def inner_contraction(L: float, lam: float, inner_steps: int, step_size: float) -> float:
    """T4, for lam > L and s < 2/(L + lam): K inner steps shrink the distance to the prox by this factor or more,
    `max(1 - s (lam - L), s (lam + L) - 1)^K`: the first of the two for s <= 1/lam, where both are (L/lam)^K."""
    return max(1.0 - step_size * (lam - L), step_size * (lam + L) - 1.0) ** inner_steps


def sampling_variance(gradients: np.ndarray, n: int) -> float:
    """T6: variance of the mean of n of the N `gradients` without replacement, `sigma^2 (N-n)/(n(N-1))`."""
    N = len(gradients)
    flat = gradients.reshape(N, -1)
    sigma2 = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    return float(sigma2 * (N - n) / (n * (N - 1))) if N > 1 else 0.0


def sampling_bound(gap, alpha: float, rounds: int, L: float, lam: float, variance, error=0.0) -> float:
    """T6, in expectation: `2 gap/(alpha T) + mean_t [e_t + alpha L_up (sqrt(v_t) + sqrt(e_t))^2]`.

    v_t: the variance of round t's exact sampled gradient (`sampling_variance`), e_t: the mean over tasks of the squared
    error of their meta-gradients, 0 for an exact prox; numbers or arrays over the rounds. Conditions: lam > L, R = 1,
    meta step over the drawn tasks, alpha <= largest_step.
    """
    noise = (np.sqrt(variance) + np.sqrt(error)) ** 2
    return descent_bound(gap, alpha, rounds, float(np.mean(error + alpha * upper_smoothness(L, lam) * noise)))


def required_decrease(run: History, L: float) -> np.ndarray:
    """(T,) T5: what Phi must lose in each round, `s (1 - s (L + lam)/2) S + lam c (1 - c/2) ||theta - mean y||^2`.

    S = mean over all tasks of sum_k ||grad h_i(y_i^k)||^2 (0 for an absent task); it weighs s/2 or more where
    s <= 1/(L + lam). Conditions: any lam > 0, warm start, R = 1, s < 2/(L + lam), c = beta eta lam in (0, 2), and a
    mean over all tasks in the meta step: full participation, or aggregate = "all" whoever is drawn.
    """
    s = run.settings
    c, step = s["beta"] * s["eta"] * s["lam"], s["inner_step_size"]
    pull = c * (1 - c / 2) * run.gradient_norm**2 / s["lam"]
    share = s["tasks_per_round"] / len(run.tasks)
    return step * (1 - step * (L + s["lam"]) / 2) * share * run.inner_square + pull


def slope(rounds: np.ndarray, squares: np.ndarray, floor: float = 1e-18) -> float:
    """Log-log slope of the best (smallest) of `squares` so far over `rounds`, after the first tenth of them.

    T3 and T5 make it -1 or steeper in the long run (a summable sequence's running minimum is o(1/T)); a floor makes it
    0. Values below `floor`, the accuracy of a solved prox, end the curve: they are not fitted.
    """
    best = np.minimum.accumulate(squares)
    good = best > floor
    late = good & (rounds > 0.1 * rounds[-1])
    keep = late if late.sum() > 1 else good  # the end may be reached before the first tenth is over
    return float(np.polyfit(np.log(rounds[keep]), np.log(best[keep]), 1)[0]) if keep.sum() > 1 else -inf


def rate(run: History) -> float:
    """`slope` of the squared norm that a run follows. Cold starts and R > 1 follow another than F's."""
    return slope(np.arange(1, len(run.gradient_norm) + 1), run.gradient_norm**2, floor=1e-28)


def barrier_threshold(tasks: TaskBatch, tau: float) -> float:
    """T9: the gradient norm of J^tau below which `barrier_bound` holds, `tau/(2 S A)`."""
    return tau / (2.0 * tasks.shape[1] * tasks.shape[2])


def occupancies(tasks: TaskBatch, pi: np.ndarray) -> np.ndarray:
    """(N, S) normalised discounted occupancies (rows sum to 1) of the policies pi (N, S, A)."""
    system, _ = under_policy(tasks, pi)
    return (1 - tasks.gamma) * np.linalg.solve(system.swapaxes(1, 2), tasks.rho[..., None])[..., 0]


def barrier_bound(tasks: TaskBatch, tau: float) -> np.ndarray:
    """T9 (N,): `(2 tau/(1-gamma)) max_s d*(s)/mu(s)`; infinite where the starts mu lack support."""
    star = occupancies(tasks, np.eye(tasks.shape[2])[optimal_policies(tasks)[0]])
    ratio = np.divide(star, tasks.rho, out=np.where(star > 1e-14, inf, 0.0), where=tasks.rho > 0)
    return 2.0 * tau / (1.0 - tasks.gamma) * ratio.max(-1)


def certificate(tasks: TaskBatch, personal: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """T10 (N,): an upper bound on `J_i* - J_i(theta_i)`, tau = 0; slope (N,) bounds ||grad J_i(theta_i)||.

    `sqrt(S) max_s(d*/d) / min_s pi_i(a*|s) * slope`. At an exact prox slope = lam ||theta - theta_i||; elsewhere that
    alone certifies nothing (0 at theta itself): add the inner residual `||grad J_i(theta_i) - lam (theta_i - theta)||`.
    """
    actions = optimal_policies(tasks)[0]
    pi = np.broadcast_to(softmax(personal), tasks.shape)
    star, d = occupancies(tasks, np.eye(tasks.shape[2])[actions]), occupancies(tasks, pi)
    ratio = np.divide(star, d, out=np.zeros_like(d), where=star > 1e-14).max(-1)
    least = np.take_along_axis(pi, actions[..., None], -1)[..., 0].min(-1)
    return sqrt(tasks.shape[1]) * ratio / np.maximum(least, 1e-300) * slope


def _norms(x: np.ndarray) -> Any:
    return np.sqrt((x**2).sum((-2, -1)))


def _row(statement: str, conditions: dict[str, bool], compute: Callable[[], tuple]) -> dict:
    """A row of `hold`. `compute()`, asked if all conditions are met, gives bound, measured and, where it is not
    bound / measured, the margin; a bound holds if measured <= bound up to rounding."""
    unmet = [text for text, met in conditions.items() if not met]
    bound = measured = margin = nan
    holds = None
    if not unmet:
        bound, measured, *given = (float(x) for x in compute())
        margin = given[0] if given else (bound / measured if measured > 0 else inf)
        holds = measured <= bound + 1e-9 * max(1.0, abs(bound) if np.isfinite(bound) else 1.0)
    return {
        "statement": statement, "condition": "; ".join(conditions) or "none", "met": not unmet,
        "unmet": "; ".join(unmet), "bound": bound, "measured": measured, "slack": bound - measured, "margin": margin,
        "holds": holds,
    }  # fmt: skip


def hold(
    run: History, L: float | None = None, generator: np.random.Generator | None = None, draws: int = 20
) -> pd.DataFrame:
    """Hold a run of `pmeta` against every statement that can be checked on it.

    Args:
        run: of `pmeta`; with `trace=True` T3, T4 and the rate of T6 are checked too.
        L: the smoothness constant; by default the proven one of T8, loose by orders of magnitude, so that few
            conditions are met in practice. A measured L makes them testable, not proven; `bandit_smoothness` is exact.
        generator: directions of the finite-difference checks and the draws of T6; default_rng(0) by default.
        draws: T6 speaks of an expectation: it is the mean of this many runs, of which `run` is the first.

    Returns one row a statement: statement, condition, met (are all conditions?), unmet (which are not), bound,
    measured, slack = bound - measured, margin (by what factor the bound could shrink before the run violates it; NaN
    for identities), holds (None where a condition is not met). UserError: not a run of pmeta, lam = 0, L not above 0.
    """
    s, tasks, theta, personal = run.settings, run.tasks, run.theta, run.personal
    lam, tau, K, step, n = s["lam"], s["tau"], s["inner_steps"], s["inner_step_size"], s["tasks_per_round"]
    N, T, c, theta0 = len(tasks), len(run.meta_return), s["beta"] * s["eta"] * s["lam"], run.theta0
    if run.learner != "pmeta" or lam <= 0 or T < 1:
        raise UserError(f"hold needs a pmeta run with lam > 0 and a round or more, not {run.learner}, lam={lam}.")
    rng = np.random.default_rng(0) if generator is None else generator
    L = smoothness(tasks, tau) if L is None else check_number("L", L, positive=True)
    best, strong = optimal_values(tasks), {"lam > L": lam > L}
    plain = {"exact gradients": s["oracle"] is exact, "R = 1": s["local_steps"] == 1}
    steady = {"s < 2/(L + lam)": step * (L + lam) < 2}
    gradient = exact(tasks, personal, tau)[0]

    @cache  # and only where a condition asks for it
    def prox_at(end: str) -> np.ndarray:
        return prox(tasks, {"start": theta0, "end": theta}[end], lam, tau)

    def finite_difference() -> tuple:
        u, e = rng.standard_normal(tasks.shape) / sqrt(tasks.r[0].size), 1e-5
        difference = (objective(tasks, personal + e * u, tau) - objective(tasks, personal - e * u, tau)) / (2 * e)
        return 1e-6 / (1 - tasks.gamma) ** 2, np.abs(difference - (gradient * u).sum((1, 2))).max(), nan

    def first_order() -> tuple:
        x = prox_at("end")
        return 1e-8, _norms(moreau.envelope_gradient(theta, x, lam) + exact(tasks, x, tau)[0]).max(), nan

    def envelope_lipschitz() -> tuple:
        start, end = (moreau.envelope_gradient(x, prox_at(k), lam) for k, x in (("start", theta0), ("end", theta)))
        return envelope_smoothness(L, lam) * _norms(theta - theta0), _norms(end - start).max()

    def upper() -> tuple:
        x, y, at_x, at_y = theta0, theta, prox_at("start"), prox_at("end")
        model = _envelopes(run, at_x, x) + (lam * (x - at_x) * (y - x)).sum((1, 2))
        return upper_smoothness(L, lam) / 2 * _norms(y - x) ** 2, (_envelopes(run, at_y, y) - model).max()

    def contraction() -> tuple:
        target, y = prox_at("end"), copies(theta, N)
        start = _norms(y - target)
        for _ in range(K):
            y = moreau.inner_step(y, exact(tasks, y, tau)[0], theta, lam, step)
        return (inner_contraction(L, lam, K, step) * start + 1e-9).max(), _norms(y - target).max()

    def falls() -> tuple:
        required, fall = required_decrease(run, L), -np.diff(run.potential)
        real = required > 1e-8 * (1 + np.abs(run.potential[:-1]))  # below that both drown in rounding
        return 0.0, (required - fall).max(), (fall[real] / required[real]).min(initial=inf)

    def sampled_variance() -> tuple:
        g = moreau.envelope_gradient(theta, personal, lam).reshape(N, -1)
        sets = np.array(list(combinations(range(N), n)))
        spread = ((g[sets].mean(1) - g.mean(0)) ** 2).sum(1).mean()
        return 1e-10 * (1 + spread), abs(spread - sampling_variance(g, n)), nan

    def on_the_way() -> tuple:
        return smoothness(tasks, tau), max(curvature(tasks, x, rng, tau, 8).max() for x in (theta0, theta, personal))

    def certified() -> tuple:
        slopes = lam * _norms(personal - theta) + _norms(gradient - lam * (personal - theta))
        return 0.0, (gap - certificate(tasks, personal, slopes)).max(), nan

    descent = plain | steady | {
        "warm start": bool(s["warm_start"]), "c = beta eta lam in (0, 2)": 0 < c < 2,
        'all tasks each round, or aggregate = "all"': n == N or s["aggregate"] == "all",
    }  # fmt: skip
    few = {"n < N": n < N, "few enough subsets to enumerate": comb(N, n) <= 5000}
    gap, near = best - returns(tasks, personal), _norms(gradient) <= barrier_threshold(tasks, tau)
    barred = {
        "tau > 0": tau > 0, "start distribution has full support": bool((tasks.rho > 0).all()),
        "||grad J^tau|| <= tau/(2SA) for a task": bool(near.any()),
    }  # fmt: skip
    pair = N == 2 and np.array_equal(tasks.P[0], tasks.P[1]) and np.allclose(tasks.r.sum(0), 1.0)
    opposed = {"two tasks, shared P, r_2 = 1 - r_1": bool(pair), "equal starts": np.array_equal(*tasks.rho[[0, -1]])}
    rows = [
        _row("T0 policy gradient = finite difference", {}, finite_difference),
        _row("T1 grad F_i = lam (theta - prox) = grad f_i(prox)", strong, first_order),
        _row("T1 F is lam L/(lam - L)-smooth", strong, envelope_lipschitz),
        _row("T2 upper curvature of F_i is lam L/(lam + L)", strong, upper),
        *(_descent_rows(run, L, strong | plain, best, rng, draws) if run.trace is not None else ()),
        _row("T4 K inner steps contract as the run's own s makes them", strong | steady, contraction),
        _row("T5 Phi falls by the required amount in each round", descent, falls),
        _row(
            "T5 best required decrease is O(1/T)", descent,
            lambda: ((run.potential[0] + best.mean()) / T, required_decrease(run, L).min()),
        ),
        _row("T6 variance of the sampled meta-gradient", few, sampled_variance),
        _row("T8 curvature met on the way <= 8/(1-gamma)^3", {}, on_the_way),
        _row(
            "T9 log barrier: near-stationary is near-optimal", barred,
            lambda: (0.0, (gap - barrier_bound(tasks, tau))[near].max(), nan),
        ),
        _row("T10 certificate on J* - J of each personalized policy", {"tau = 0": tau == 0}, certified),
        _row(
            "Full conflict: J_1 + J_2 = 1/(1-gamma) for the meta-policy", opposed,
            lambda: (1e-9, abs(returns(tasks, theta).sum() - 1 / (1 - tasks.gamma)), nan),
        ),
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _envelopes(run: History, proxes: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """(N,) F_i(theta) of the run's tasks, by the proxes (N, S, A) at theta."""
    f = -objective(run.tasks, proxes, run.settings["tau"])
    return moreau.envelope(f, proxes, theta, run.settings["lam"], (-2, -1))


def _descent_rows(
    run: History, L: float, base: dict, best: np.ndarray, rng: np.random.Generator, draws: int
) -> Iterator[dict]:
    """T3, T4 and T6: the exact envelope gradient at every theta^t, all rounds in one batch of T N tasks."""
    s, tasks, N, T = run.settings, run.tasks, len(run.tasks), len(run.meta_return)
    lam, alpha, n, step = s["lam"], s["beta"] * s["eta"], s["tasks_per_round"], s["inner_step_size"]
    conditions = base | {"0 < alpha <= 1/lam + 1/L": 0 < alpha <= largest_step(L, lam) * (1 + 1e-12)}
    few = {"n < N": n < N, 'aggregate = "drawn"': s["aggregate"] == "drawn", "s < 2/(L + lam)": step * (L + lam) < 2}

    def along(path: History) -> tuple[np.ndarray, np.ndarray]:
        """(T, N, S, A): the exact gradients of the F_i at theta^t, and the proxes they come from."""
        starts, many = path.trace["theta"][:-1], tasks[np.tile(np.arange(N), T)]
        proxes = prox(many, np.repeat(starts, N, 0), lam, s["tau"]).reshape(T, *tasks.shape)
        return moreau.envelope_gradient(starts[:, None], proxes, lam), proxes

    @cache
    def own() -> tuple[float, float, np.ndarray]:
        """Of the run itself: gap to the infimum, mean ||grad F||^2, squared error (T,) of the steps that were made."""
        g, proxes = along(run)
        theta = run.trace["theta"]
        error = _norms((theta[:-1] - theta[1:]) / alpha - g.mean(1)) ** 2
        return _envelopes(run, proxes[0], theta[0]).mean() + best.mean(), (_norms(g.mean(1)) ** 2).mean(), error

    def in_expectation() -> tuple:
        keywords = {k: v for k, v in s.items() if k != "generator"}
        found = []
        for k in range(draws):
            path = run if k == 0 else pmeta(tasks, run.theta0, generator=rng, **keywords)
            g, proxes = along(path)
            begin = path.trace["personal"][:-1] if s["warm_start"] else path.trace["theta"][:-1, None]
            left = lam * inner_contraction(L, lam, s["inner_steps"], step) * _norms(begin - proxes)
            variance = np.array([sampling_variance(x, n) for x in g])
            bound = sampling_bound(own()[0], alpha, T, L, lam, variance, (left**2).mean(1))
            found.append((bound, (_norms(g.mean(1)) ** 2).mean()))
        return tuple(np.mean(found, 0))

    everyone = {"all tasks each round": n == N}
    if all(conditions.values()):
        everyone["exact prox (error below 1e-8)"] = bool(own()[2].max() < 1e-16)
    yield _row(
        "T3 mean ||grad F||^2, exact prox", conditions | everyone,
        lambda: (descent_bound(own()[0], alpha, T) + 1e-12, own()[1]),
    )  # fmt: skip
    yield _row(
        "T4 mean ||grad F||^2, inexact prox", conditions,
        lambda: (descent_bound(own()[0], alpha, T, own()[2].mean()), own()[1]),
    )  # fmt: skip
    yield _row("T6 mean ||grad F||^2 (in expectation)", conditions | few, in_expectation)
