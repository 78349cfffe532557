"""Gradients, Hessian-vector products, proxes and envelopes against independent references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pmeta_lib.tabular import (
    TaskBatch,
    conflict_rate,
    envelope,
    envelope_gradients,
    evaluate,
    hessian_vector_products,
    normalised_returns,
    optimal_values,
    policies,
    policy_gradients,
    prox,
    softmax,
    values,
)
from pmeta_lib.tabular.families import chain


def central(f, theta, direction, h=1e-5):
    return (f(theta + h * direction) - f(theta - h * direction)) / (2 * h)


def value_by_iteration(t, i, theta, tau):
    """J_i^tau by iterating Bellman's equation with plain loops: shares no code with the library."""
    S, A = t.r[i].shape
    pi = np.array([np.exp(row) / np.exp(row).sum() for row in theta])
    V = np.zeros(S)
    for _ in range(2000):
        V = np.array([sum(pi[s, a] * (t.r[i, s, a] + t.gamma * t.P[i, s, a] @ V) for a in range(A)) for s in range(S)])
        if t.gamma**_ < 1e-14:
            break
    return t.rho[i] @ V + tau * np.log(pi).mean()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2]), st.booleans())
def test_gradients_and_hessian_products_are_derivatives(make, seed, tau, shared):
    t = make(seed, N=3, S=4, A=3, gamma=0.9)
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(4, 3) if shared else (3, 4, 3))
    u, v = rng.normal(size=(2, 3, 4, 3))
    slope = (policy_gradients(t, theta, tau) * u).sum((1, 2))
    np.testing.assert_allclose(slope, central(lambda x: values(t, x, tau), theta, u), atol=1e-6)
    product = hessian_vector_products(t, theta, v, tau)
    np.testing.assert_allclose(product, central(lambda x: policy_gradients(t, x, tau), theta, v), atol=1e-6)
    other = hessian_vector_products(t, theta, u, tau)
    np.testing.assert_allclose((product * u).sum((1, 2)), (other * v).sum((1, 2)), atol=1e-9)  # symmetry


def test_values_and_every_partial_derivative_by_brute_force(make):
    t = make(5, N=2, S=3, A=2, gamma=0.6)
    theta = np.random.default_rng(5).normal(size=(2, 3, 2))
    for i in range(2):
        assert values(t, theta, 0.3)[i] == pytest.approx(value_by_iteration(t, i, theta[i], 0.3), abs=1e-12)
        for s in range(3):
            for a in range(2):
                e = np.zeros((3, 2))
                e[s, a] = 1.0
                slope = central(lambda x, i=i: value_by_iteration(t, i, x, 0.3), theta[i], e)
                assert policy_gradients(t, theta, 0.3)[i, s, a] == pytest.approx(slope, abs=1e-7)


def test_occupancies_are_those_of_the_chain(make):
    t = make(gamma=0.9)
    at = evaluate(t, np.random.default_rng(0).normal(size=t.shape))
    P = np.einsum("nsa,nsat->nst", at.pi, t.P)
    d, total = t.rho.copy(), t.rho.copy()
    for _ in range(400):
        d = t.gamma * np.einsum("ns,nst->nt", d, P)
        total += d
    np.testing.assert_allclose(at.D, total, rtol=1e-10)


def test_large_batches_are_cut_into_blocks_with_the_same_numbers(make, monkeypatch):
    t = make(N=7, S=6)
    theta, v = np.random.default_rng(2).normal(size=(2, 6, 3))
    whole, product = policies.exact(t, theta, 0.1)
    expected = product(v)
    monkeypatch.setattr(policies, "CACHE", t.P.nbytes // 3)
    cut, product = policies.exact(t, theta, 0.1)
    np.testing.assert_allclose(cut, whole, atol=1e-14)
    np.testing.assert_allclose(product(v), expected, atol=1e-14)


def test_extreme_parameters_stay_finite(make):
    t = make()
    theta = np.random.default_rng(0).normal(size=t.shape) * 1e4
    assert np.isfinite(policy_gradients(t, theta, 0.1)).all() and np.isfinite(values(t, theta, 0.1)).all()


def test_full_conflict(make):
    pair = chain().train
    theta = np.random.default_rng(3).normal(size=pair.shape[1:])
    assert values(pair, theta).sum() == pytest.approx(1 / (1 - pair.gamma), rel=1e-13)
    assert np.abs(policy_gradients(pair, theta).sum(0)).max() < 1e-13
    assert conflict_rate(pair, theta) == 1.0
    assert conflict_rate(make(N=1), np.zeros((5, 3))) == 0.0


def test_normalised_returns_have_the_right_ends(make):
    t = make()
    np.testing.assert_allclose(normalised_returns(t, np.zeros((5, 3))), 0, atol=1e-10)
    assert (normalised_returns(t, np.random.default_rng(0).normal(size=t.shape)) < 100).all()
    # rounding must not be divided by a gap of zero: all actions alike, nothing to choose
    alike = TaskBatch(np.repeat(t.P[:, :, :1], 3, 2), np.repeat(t.r[:, :, :1], 3, 2), t.rho, t.gamma)
    np.testing.assert_array_equal(normalised_returns(alike, np.random.default_rng(0).normal(size=t.shape)), 0)


@pytest.mark.parametrize("lam, tau", [(50.0, 0.0), (1.0, 0.2), (0.05, 0.0), (0.0, 0.3)])
def test_prox_and_envelope_agree_with_scipy(make, lam, tau):
    t, theta = make(4, N=3, S=4, A=3, gamma=0.9), np.random.default_rng(4).normal(size=(4, 3))
    x, F = prox(t, theta, lam, tau), envelope(t, theta, lam, tau)
    for i in range(3):

        def loss(y, i=i):
            return -values(t[i], y.reshape(4, 3), tau)[0] + lam / 2 * ((y - theta.ravel()) ** 2).sum()

        def slope(y, i=i):
            return -policy_gradients(t[i], y.reshape(4, 3), tau)[0].ravel() + lam * (y - theta.ravel())

        peer = minimize(loss, theta.ravel(), jac=slope, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
        assert F[i] == pytest.approx(peer.fun, abs=1e-8)
        if lam:  # without a penalty, theta is only determined up to a constant per state
            np.testing.assert_allclose(x[i].ravel(), peer.x, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 1.0, 300.0]))
def test_envelope_gradient_is_its_derivative_and_that_of_f_at_the_prox(make, seed, lam):
    t = make(seed, N=2, S=4, A=3, gamma=0.5)
    rng = np.random.default_rng(seed)
    theta, u = rng.normal(size=(2, 4, 3))
    g = envelope_gradients(t, theta, lam)
    slope = central(lambda x: envelope(t, x, lam), theta, u, h=1e-4)
    np.testing.assert_allclose((g * u).sum((1, 2)), slope, atol=1e-6)
    np.testing.assert_allclose(g, -policy_gradients(t, prox(t, theta, lam)), atol=1e-9)
    assert (envelope(t, theta, lam) <= -values(t, theta) + 1e-12).all()


def test_limits_of_lam(make):
    t, theta = make(), np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_allclose(prox(t, theta, 1e9), np.broadcast_to(theta, t.shape), atol=1e-8)
    np.testing.assert_allclose(envelope_gradients(t, theta, 1e9), -policy_gradients(t, theta), atol=1e-7)
    np.testing.assert_allclose(-envelope(t, theta, 1e-7), optimal_values(t), atol=1e-2)


def test_prox_refuses_what_has_no_answer(make):
    t, theta = make(), np.zeros((5, 3))
    for lam, words in [(-1.0, "lam is -1"), (np.nan, "lam is nan"), (0.0, "lam is 0"), ("1", "lam is '1'")]:
        with pytest.raises(ValueError, match=words):
            prox(t, theta, lam)
    for wrong in ({"tol": np.nan}, {"tol": 0.0}, {"max_steps": -1}, {"max_steps": 2.5}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is"):
            prox(t, theta, 1.0, **wrong)
    with pytest.raises(ValueError, match=r"task \d.*max_steps"):
        prox(t, theta, 1e-3, max_steps=3)


def test_policy_rows_sum_to_one(make):
    assert np.allclose(softmax(np.random.default_rng(0).normal(size=(2, 5, 3)) * 50).sum(-1), 1)
    same = TaskBatch.concatenate([make(), make()])
    np.testing.assert_array_equal(values(same, np.zeros((5, 3)))[:3], values(same, np.zeros((5, 3)))[3:])
