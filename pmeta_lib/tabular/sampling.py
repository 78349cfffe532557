"""Sampled trajectories instead of exact gradients: what noise changes (REINFORCE / GPOMDP with baseline).

All trajectories of all tasks advance together, one array operation a time step."""

from dataclasses import dataclass

import numpy as np

from pmeta_lib.tabular.mdp import TaskBatch, check_generator, check_theta, check_whole
from pmeta_lib.tabular.policies import HessianVector, Oracle, softmax


@dataclass(frozen=True)
class Trajectories:
    """M trajectories of H steps in each of N tasks: states, actions (H, N, M) and rewards (H, N, M)."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


def _ladder(p: np.ndarray) -> np.ndarray:
    """The rows of p (…, C) as one sorted array, row k climbing from k to k + 1: one search draws from any row."""
    c = p.reshape(-1, p.shape[-1]).cumsum(-1)
    c[c >= c[:, -1:]] = 1.0  # rounding must not let an impossible last outcome be drawn
    return (c + np.arange(len(c))[:, None]).ravel()


def sample(
    tasks: TaskBatch, theta: np.ndarray, trajectories: int, horizon: int, generator: np.random.Generator
) -> Trajectories:
    """`trajectories` rollouts of `horizon` steps of the softmax policies theta in each task."""
    pi = softmax(check_theta(tasks, theta))
    check_whole("trajectories", trajectories)
    check_whole("horizon", horizon)
    check_generator(generator)
    N, S, A = tasks.shape
    steps = _ladder((pi[..., None] * tasks.P).reshape(N, S, A * S))  # action and next state in one draw
    # Just below 1, so that adding the row number cannot round up into the next row.
    u = generator.random((horizon + 1, N, trajectories)) * (1 - 2.0**-32)
    task = np.arange(N)[:, None]
    drawn = np.empty((horizon, N, trajectories), np.int64)  # ((task * S + s) * A + a) * S + next s
    row = _ladder(tasks.rho).searchsorted(task + u[0], side="right")  # task * S + s
    for t in range(horizon):
        drawn[t] = steps.searchsorted(row + u[t + 1], side="right")
        row = task * S + drawn[t] % S
    cells = drawn // S
    return Trajectories(cells // A % S, cells % A, tasks.r.reshape(-1)[cells])


def sampled(trajectories: int, horizon: int, generator: np.random.Generator) -> Oracle:
    """An oracle for the learners: fresh trajectories at each call, `trajectories` of `horizon` per task.
    Gradient: GPOMDP (Baxter and Bartlett, 2001), `sum_t grad log pi(a_t|s_t) sum_{k>=t} gamma^k (r_k - b_k)`, where b_k
    is the mean reward at step k of the *other* trajectories of the task: it depends on none of the trajectory's own
    actions, so the estimate stays unbiased. Only the cut at `horizon` leaves a bias, of order gamma^horizon.
    Hessian-vector products use the same trajectories, unbiased too; MAML's product of both is not. Barrier: exact."""
    check_whole("trajectories", trajectories, least=2)  # the baseline is the mean of the others
    check_whole("horizon", horizon)
    check_generator(generator)

    def oracle(tasks: TaskBatch, theta: np.ndarray, tau: float = 0.0) -> tuple[np.ndarray, HessianVector]:
        (N, S, A), pi = tasks.shape, np.broadcast_to(softmax(theta), tasks.shape)
        seen = sample(tasks, theta, trajectories, horizon, generator)
        others = (seen.rewards.sum(-1, keepdims=True) - seen.rewards) / (trajectories - 1)
        gain = tasks.gamma ** np.arange(horizon)[:, None, None] * (seen.rewards - others)
        cells = (np.arange(N)[:, None] * S + seen.states) * A + seen.actions

        def visits(gain: np.ndarray) -> np.ndarray:
            """(N, S, A) mean over trajectories of the gain to go, collected where it is still to come."""
            to_go = gain[::-1].cumsum(0)[::-1]
            total = np.bincount(cells.ravel(), to_go.ravel(), minlength=N * S * A)
            return total.reshape(N, S, A) / trajectories

        def score_sum(w: np.ndarray) -> np.ndarray:
            """sum of w(s,a) grad log pi(a|s) over the visits."""
            return w - pi * w.sum(-1, keepdims=True)

        weights = visits(gain)
        gradient = score_sum(weights) + (tau / S) * (1.0 / A - pi)

        def hessian_vector(v: np.ndarray) -> np.ndarray:
            # E sum_t gain_t [ (sum_k s_k)(sum_k s_k . v) + sum_k (grad^2 log pi_k) v ],  s_k = grad log pi_k
            centred = np.broadcast_to(v, tasks.shape) - (pi * v).sum(-1, keepdims=True)
            so_far = centred.reshape(-1)[cells].cumsum(0)
            curved = pi * centred * weights.sum(-1, keepdims=True)
            return score_sum(visits(gain * so_far)) - curved - (tau / S) * pi * centred

        return gradient, hessian_vector

    return oracle
