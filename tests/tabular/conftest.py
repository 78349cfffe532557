"""Random and closed-form MDPs for the tests of the tabular half."""

import numpy as np
import pytest

from pmeta_lib.tabular import TaskBatch


def random_tasks(seed=0, N=3, S=5, A=3, gamma=0.8, concentration=1.0):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(S, concentration), (N, S, A))
    return TaskBatch(P, rng.random((N, S, A)), rng.dirichlet(np.ones(S), N), gamma)


@pytest.fixture(scope="session")
def make():
    return random_tasks


@pytest.fixture(scope="session")
def two_states():
    """a0 stays, a1 moves to an absorbing state of reward 1; gamma 0.9; start in state 0."""
    P = np.zeros((1, 2, 2, 2))
    P[0, 0, 0, 0] = P[0, 0, 1, 1] = P[0, 1, :, 1] = 1.0
    r = np.zeros((1, 2, 2))
    r[0, 1] = 1.0
    return TaskBatch(P, r, np.array([[1.0, 0.0]]), 0.9)
