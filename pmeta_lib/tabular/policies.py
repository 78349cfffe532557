"""Softmax policies of N tasks at once: returns, policy gradients and Hessian-vector products, exactly (T0).

    pi(a|s) = exp theta[s,a] / sum_b exp theta[s,b],   J = rho . V,   V = (I - gamma P_pi)^-1 r_pi
    dJ/dtheta[s,a] = D(s) pi(a|s) (Q(s,a) - V(s)),     D = (I - gamma P_pi)^-T rho   (unnormalised occupancy)

`tau` adds the log barrier `tau/(S A) sum log pi`, with gradient `(tau/S)(1/A - pi(a|s))`. Values and occupancies share
one factorization of `I - gamma P_pi`; a Hessian-vector product is two more solves with it. Everywhere `theta` is
(S, A), shared by all tasks, or (N, S, A), one for each."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pmeta_lib.tabular.mdp import Factorization, TaskBatch, action_values, check_number, check_theta, under_policy

CACHE = 4 << 20  # bytes of P worked on at a time; a block of that size stays in a core's cache
HessianVector = Callable[[np.ndarray], np.ndarray]
# What a learner needs of an objective: theta -> (gradients (N, S, A), a function v -> Hessian times v).
Oracle = Callable[[TaskBatch, np.ndarray, float], tuple[np.ndarray, HessianVector]]


def softmax(theta: np.ndarray) -> np.ndarray:
    """pi (…, S, A) of the parameters theta (…, S, A)."""
    pi = np.exp(theta - theta.max(-1, keepdims=True))
    pi /= pi.sum(-1, keepdims=True)
    return pi


@dataclass(frozen=True)
class Evaluation:
    """What one factorization gives at the policies `pi` (N, S, A): V, D (N, S), Q and `Q - V` (N, S, A)."""

    pi: np.ndarray
    V: np.ndarray
    D: np.ndarray
    Q: np.ndarray
    advantages: np.ndarray
    factors: Factorization


def evaluate(tasks: TaskBatch, theta: np.ndarray) -> Evaluation:
    """Values, action values and occupancies of each task's policy; theta is not checked (a hot path)."""
    pi = np.broadcast_to(softmax(theta), tasks.shape)
    system, reward = under_policy(tasks, pi)
    factors = Factorization(system)
    V, D = factors.solve(reward), factors.solve(tasks.rho, transposed=True)
    Q = action_values(tasks, V)
    return Evaluation(pi, V, D, Q, Q - V[..., None], factors)


def returns(tasks: TaskBatch, theta: np.ndarray) -> np.ndarray:
    """(N,) J without barrier and without checks: one solve, for recording inside loops."""
    system, reward = under_policy(tasks, np.broadcast_to(softmax(theta), tasks.shape))
    return (tasks.rho * np.linalg.solve(system, reward[..., None])[..., 0]).sum(-1)


def barrier(tasks: TaskBatch, theta: np.ndarray, tau: float) -> np.ndarray | float:
    """(N,) or a scalar: `tau/(S A) sum log pi`, finite however small pi is."""
    if not tau:
        return 0.0
    shifted = theta - theta.max(-1, keepdims=True)
    return tau * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).mean((-2, -1))


def objective(tasks: TaskBatch, theta: np.ndarray, tau: float) -> np.ndarray:
    """(N,) J^tau, without checks."""
    return returns(tasks, theta) + barrier(tasks, theta, tau)


def exact(tasks: TaskBatch, theta: np.ndarray, tau: float = 0.0) -> tuple[np.ndarray, HessianVector]:
    """The exact oracle: gradients (N, S, A) and the map v -> Hessian_i v_i, both of J^tau, without checks."""
    if (blocks := min(len(tasks), tasks.P.nbytes // CACHE)) > 1:
        return _exact_in_blocks(tasks, np.broadcast_to(theta, tasks.shape), tau, blocks)
    (N, S, A), at = tasks.shape, evaluate(tasks, theta)
    gradient = at.D[..., None] * at.pi * at.advantages
    if tau:
        gradient += (tau / S) * (1.0 / A - at.pi)

    def product(v: np.ndarray) -> np.ndarray:
        """Differentiate D pi (Q - V) along v: two solves with the factorization that `at` already holds."""
        dpi = at.pi * (v - (at.pi * v).sum(-1, keepdims=True))
        dV = at.factors.solve((dpi * at.Q).sum(-1))
        flow = (at.D[..., None] * dpi).reshape(N, 1, S * A)
        inflow = tasks.gamma * np.matmul(flow, tasks.P.reshape(N, S * A, S))[:, 0]
        dD = at.factors.solve(inflow, transposed=True)
        dA = action_values(tasks, dV) - tasks.r - dV[..., None]
        change = dD[..., None] * at.pi * at.advantages + at.D[..., None] * (dpi * at.advantages + at.pi * dA)
        return change - (tau / S) * dpi if tau else change

    return gradient, product


def _exact_in_blocks(tasks: TaskBatch, theta: np.ndarray, tau: float, blocks: int) -> tuple[np.ndarray, HessianVector]:
    """The same, as many tasks at a time as the cache holds: P is read twice, and only once from memory."""
    cuts = [slice(a, b) for a, b in pairwise(np.linspace(0, len(tasks), blocks + 1).astype(int))]
    gradients, products = zip(*(exact(tasks[c], theta[c], tau) for c in cuts))

    def product(v: np.ndarray) -> np.ndarray:
        v = np.broadcast_to(v, tasks.shape)
        return np.concatenate([part(v[c]) for c, part in zip(cuts, products)])

    return np.concatenate(gradients), product


def values(tasks: TaskBatch, theta: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """(N,) expected discounted return J_i(theta_i) of each task, plus the log barrier if tau > 0."""
    return objective(tasks, check_theta(tasks, theta), check_number("tau", tau))


def policy_gradients(tasks: TaskBatch, theta: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """(N, S, A) exact gradient of J_i^tau at theta (policy gradient theorem; Sutton et al., 2000)."""
    return exact(tasks, check_theta(tasks, theta), check_number("tau", tau))[0]


def hessian_vector_products(tasks: TaskBatch, theta: np.ndarray, v: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """(N, S, A) Hessian of J_i^tau at theta times v; v is (S, A) or (N, S, A)."""
    return exact(tasks, check_theta(tasks, theta), check_number("tau", tau))[1](check_theta(tasks, v, "v"))
