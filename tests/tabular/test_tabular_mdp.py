"""TaskBatch refuses bad input by name; values agree with another library."""

import mdptoolbox.mdp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmeta_lib.tabular import TaskBatch, optimal_policies, optimal_values, policy_gradients, softmax, values


@pytest.mark.parametrize(
    "name, index, value, words",
    [
        ("P", (1, 2, 0, 3), np.nan, ["P", "task 1", "finite"]),
        ("r", (2, 0, 1), np.inf, ["r", "task 2", "finite"]),
        ("rho", (1, 0), np.nan, ["rho", "task 1", "finite"]),
        ("P", (2, 1, 1, 0), 0.9, ["P", "task 2", "sum", "divide"]),
        ("P", (0, 1, 1, 0), -0.2, ["P", "task 0", "negative"]),
        ("rho", (1, 2), 0.7, ["rho", "task 1", "sum", "divide"]),
    ],
)
def test_bad_entries_are_named(make, name, index, value, words):
    t = make()
    arrays = {"P": t.P, "r": t.r, "rho": t.rho}
    arrays[name][index] = value
    with pytest.raises(ValueError) as error:
        TaskBatch(**arrays, gamma=0.9)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gamma", [1.0, 1.5, -0.1, np.nan, "high", "0.9", False, None, [0.9]])
def test_bad_discounts(make, gamma):
    t = make()
    with pytest.raises(ValueError, match="gamma"):
        TaskBatch(t.P, t.r, t.rho, gamma)


def test_wrong_shapes_are_named(make):
    t = make()
    for arrays, name in [
        ((t.P[0], t.r, t.rho), "P"), ((t.P[..., :-1], t.r, t.rho), "P"), ((t.P, t.r[:2], t.rho), "r"),
        ((t.P, t.r, t.rho[0]), "rho"), (([["x"]], t.r, t.rho), "P"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name} "):
            TaskBatch(*arrays, 0.9)


def test_bad_theta_is_named(make):
    t = make()
    theta = np.zeros(t.shape)
    theta[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"theta.*task 1"):
        values(t, theta)
    with pytest.raises(ValueError, match="theta has shape"):
        policy_gradients(t, np.zeros((2, 5, 3)))
    for tau in (-1.0, "0.1", True, None):
        with pytest.raises(ValueError, match=r"^tau is"):
            values(t, np.zeros((5, 3)), tau=tau)
    with pytest.raises(ValueError, match="tasks is a ndarray"):
        values(t.P, np.zeros((5, 3)))


def test_slices_and_concatenation(make):
    t = make(N=4)
    both = TaskBatch.concatenate([t[[2, 0]], t[1]])
    np.testing.assert_array_equal(both.r, t.r[[2, 0, 1]])
    with pytest.raises(ValueError, match="differ"):
        TaskBatch.concatenate([t, make(S=6)])


def test_optima_do_not_depend_on_the_company(make):
    """The tolerance of policy iteration is each task's own: rewards of 1e13 elsewhere in the batch change nothing."""
    small = make(7, N=1)
    both = TaskBatch.concatenate([small, TaskBatch(small.P, 1e13 * small.r, small.rho, small.gamma)])
    assert optimal_values(both)[0] == pytest.approx(optimal_values(small)[0], rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("S, A", [(1, 3), (4, 1), (1, 1), (5, 3)])
def test_edges(make, gamma, S, A):
    """One state, one action, no future, a long one: Bellman's optimality equation; no gradient without a choice."""
    t = make(3, N=2, S=S, A=A, gamma=gamma, concentration=0.3)
    _, V = optimal_policies(t)
    Q = t.r + gamma * np.einsum("nsat,nt->nsa", t.P, V)
    np.testing.assert_allclose(V, Q.max(-1), rtol=1e-9)
    theta = np.random.default_rng(0).normal(size=(S, A))
    assert (values(t, theta) <= optimal_values(t) * (1 + 1e-9)).all()
    if A == 1:
        np.testing.assert_allclose(policy_gradients(t, theta), 0, atol=1e-14 / (1 - gamma) ** 2)
        np.testing.assert_allclose(values(t, theta), optimal_values(t), rtol=1e-9)


def test_two_state_closed_form(two_states):
    theta = np.zeros((2, 2))
    assert values(two_states, theta)[0] == pytest.approx(90 / 11, rel=1e-14)
    np.testing.assert_allclose(policy_gradients(two_states, theta)[0, 0], [-90 / 121, 90 / 121], rtol=1e-13)
    assert optimal_values(two_states)[0] == pytest.approx(9.0)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 4), st.sampled_from([0.3, 0.9, 0.97]))
def test_values_agree_with_pymdptoolbox(make, seed, S, A, gamma):
    t = make(seed, N=2, S=S, A=A, gamma=gamma, concentration=0.3)
    actions, V = optimal_policies(t)
    for i in range(2):
        peer = mdptoolbox.mdp.PolicyIteration(np.swapaxes(t.P[i], 0, 1), t.r[i], gamma, eval_type=0)
        peer.run()
        np.testing.assert_allclose(V[i], peer.V, atol=1e-6)
        # Policy evaluation by the other library: the MDP of one action that the policy induces.
        pi = softmax(np.random.default_rng(seed).normal(size=(S, A)))
        P = np.einsum("sa,sat->st", pi, t.P[i])
        one = mdptoolbox.mdp.PolicyIteration(P[None], (pi * t.r[i]).sum(1), gamma, eval_type=0)
        one.run()
        mine = values(t[i], np.log(pi))[0]
        assert mine == pytest.approx(t.rho[i] @ np.array(one.V), abs=1e-6)
    theta = np.where(np.eye(A)[actions] > 0, 40.0, 0.0)
    np.testing.assert_allclose(values(t, theta), optimal_values(t), atol=1e-6)
