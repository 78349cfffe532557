"""Returns on the scale from uniform to optimal, and conflict between tasks: how much there is, projected off."""

import numpy as np

from pmeta_lib.tabular.mdp import TaskBatch, check_theta, optimal_values
from pmeta_lib.tabular.policies import policy_gradients, returns


def normalised_returns(tasks: TaskBatch, theta: np.ndarray) -> np.ndarray:
    """(N,) returns with 0 = the uniform policy and 100 = the optimal one, per task."""
    reached, uniform = returns(tasks, check_theta(tasks, theta)), returns(tasks, np.zeros(tasks.shape[1:]))
    gap = optimal_values(tasks) - uniform
    real = gap > 1e-12 * np.maximum(1.0, np.abs(uniform))  # a task in which no choice matters scores 0
    return 100.0 * np.divide(reached - uniform, gap, out=np.zeros_like(gap), where=real)


def gradient_cosines(gradients: np.ndarray) -> np.ndarray:
    """(N, N) cosines between the tasks' gradients (N, S, A); 0 where a gradient vanishes."""
    flat = gradients.reshape(len(gradients), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 1e-14)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def conflict_rate(tasks: TaskBatch, theta: np.ndarray) -> float:
    """Share of the task pairs whose gradients at the shared `theta` (S, A) have a negative cosine."""
    pairs = gradient_cosines(policy_gradients(tasks, theta))[np.triu_indices(len(tasks), 1)]
    return float((pairs < -1e-12).mean()) if pairs.size else 0.0


def project_conflicts(gradients: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
    """(N, S, A) gradients, each projected off those it conflicts with (PCGrad; Yu et al., NeurIPS 2020).
    The others come in random order, as published; without a generator in the order i+1, i+2, …"""
    N = len(gradients)
    g = gradients.reshape(N, -1)
    squares, out, order = (g**2).sum(1), g.copy(), np.arange(N - 1)
    if generator is not None:
        order = generator.permuted(np.tile(order, (N, 1)), axis=1)
    for other in ((np.arange(N)[:, None] + 1 + order) % N).T:
        dot = np.minimum((out * g[other]).sum(1), 0.0)
        out -= np.divide(dot, squares[other], out=np.zeros(N), where=squares[other] > 0)[:, None] * g[other]
    return out.reshape(gradients.shape)
