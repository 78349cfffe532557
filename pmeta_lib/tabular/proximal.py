"""The inner problem solved to the end: personalized policies, Moreau envelopes and their gradients.

`prox_i(theta) = argmax_x J_i^tau(x) - (lam/2) ||x - theta||^2`. It is unique when lam exceeds the smoothness constant L
(T1); below that this is the local maximiser that an ascent from theta reaches."""

import numpy as np

from pmeta_lib import moreau
from pmeta_lib.files import UserError
from pmeta_lib.tabular.mdp import TaskBatch, check_number, check_theta, check_whole
from pmeta_lib.tabular.policies import exact, objective

TOL = 1e-10
MAX_STEPS = 20_000
_MEMORY = 8  # a step may fall below the last value, not below the worst of the last eight


def prox(
    tasks: TaskBatch, theta: np.ndarray, lam: float, tau: float = 0.0, tol: float = TOL, max_steps: int = MAX_STEPS
) -> np.ndarray:
    """(N, S, A) personalized policies at theta ((S, A) shared, or (N, S, A)).
    Spectral (Barzilai-Borwein) ascent with a non-monotone line search, per task (Raydan, 1997), until the gradient norm
    of each task's inner objective is at most `tol`. UserError: lam < 0; lam = 0 without a barrier (softmax policies
    have no finite best parameters); not converged within max_steps (the text names task, residual and remedy)."""
    return theta + _displacement(tasks, theta, lam, tau, tol, max_steps)


def envelope(tasks: TaskBatch, theta: np.ndarray, lam: float, tau: float = 0.0) -> np.ndarray:
    """(N,) F_i(theta) = min_x f_i(x) + (lam/2) ||x - theta||^2 with f_i = -J_i^tau; see `prox`."""
    d = _displacement(tasks, theta, lam, tau)
    return moreau.envelope(-objective(tasks, theta + d, tau), d, 0.0, lam, axes=(-2, -1))


def envelope_gradients(tasks: TaskBatch, theta: np.ndarray, lam: float, tau: float = 0.0) -> np.ndarray:
    """(N, S, A) grad F_i(theta) = lam (theta - prox_i(theta)) (T1: exact when lam > L); see `prox`."""
    return moreau.envelope_gradient(0.0, _displacement(tasks, theta, lam, tau), lam)


def _displacement(
    tasks: TaskBatch, theta: np.ndarray, lam: float, tau: float, tol: float = TOL, max_steps: int = MAX_STEPS
) -> np.ndarray:
    """`prox - theta`, iterated as such: for large lam the difference of the two would cancel."""
    theta, tau, lam = check_theta(tasks, theta), check_number("tau", tau), check_number("lam", lam)
    check_number("tol", tol, positive=True)
    check_whole("max_steps", max_steps)
    if lam == 0 and tau == 0:
        why = "without a penalty a softmax policy improves for ever and has no finite maximiser"
        raise UserError(f"lam is 0 for every task: {why}; use lam > 0, or tau > 0 (log barrier).")
    theta, d = np.broadcast_to(theta, tasks.shape), np.zeros(tasks.shape)

    def height(rows: np.ndarray, d: np.ndarray) -> np.ndarray:
        return objective(tasks[rows], theta[rows] + d, tau) - (lam / 2) * (d**2).sum((-2, -1))

    def slope(rows: np.ndarray, d: np.ndarray) -> np.ndarray:
        return exact(tasks[rows], theta[rows] + d, tau)[0] - moreau.proximal_pull(d, 0.0, lam)

    everyone = np.arange(len(tasks))
    g, recent = slope(everyone, d), np.tile(height(everyone, d), (_MEMORY, 1))
    step = np.full(len(tasks), 1.0 / (lam + 1.0 / (1.0 - tasks.gamma)))
    longest = 10.0 / lam if lam else 1e6
    for iteration in range(max_steps + 1):
        residual = np.linalg.norm(g.reshape(len(tasks), -1), axis=1)
        rows = np.flatnonzero(residual > tol)
        if not rows.size:
            return d
        if iteration == max_steps:
            break
        trial, trial_height, pending = d.copy(), recent.max(0), rows
        while pending.size:
            trial[pending] = d[pending] + step[pending, None, None] * g[pending]
            trial_height[pending] = height(pending, trial[pending])
            wanted = recent[:, pending].min(0) + 1e-4 * step[pending] * residual[pending] ** 2
            # Near the maximum the gain drowns in rounding: then a step is taken on the gradient's word.
            slack = 1e-13 * (1.0 + np.abs(wanted))
            accepted = (trial_height[pending] >= wanted - slack) | (step[pending] * lam < 1e-12)
            pending = pending[~accepted]
            step[pending] *= 0.25
        moved, gradient = trial[rows] - d[rows], slope(rows, trial[rows])
        length, curvature = (moved**2).sum((-2, -1)), (moved * (g[rows] - gradient)).sum((-2, -1))
        spectral = np.divide(length, curvature, out=np.full(len(rows), np.inf), where=curvature > 0)
        step[rows] = np.where(np.isfinite(spectral), spectral.clip(1e-12, longest), 4.0 * step[rows]).clip(max=longest)
        d[rows], g[rows] = trial[rows], gradient
        recent[iteration % _MEMORY, rows] = trial_height[rows]
    found = f"prox of task {residual.argmax()} has residual {residual.max():.2e} > tol = {tol:g}"
    raise UserError(f"{found} after max_steps = {max_steps}; raise max_steps, tol or lam.")
