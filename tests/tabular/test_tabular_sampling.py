"""Sampled gradients: the right trajectories, and no bias."""

import numpy as np
import pytest

from pmeta_lib.tabular import (
    LEARNERS,
    hessian_vector_products,
    pmeta,
    policy_gradients,
    sample,
    sampled,
    softmax,
    values,
)


def test_trajectories_follow_the_policy_and_the_transitions(make):
    t = make(2, N=2, S=4, A=3, gamma=0.5, concentration=0.4)
    theta = np.random.default_rng(0).normal(size=t.shape)
    seen = sample(t, theta, 400, 50, np.random.default_rng(1))
    pi = softmax(theta)
    for i in range(2):
        s, a, then = seen.states[:-1, i].ravel(), seen.actions[:-1, i].ravel(), seen.states[1:, i].ravel()
        np.testing.assert_array_equal(seen.rewards[:, i], t.r[i, seen.states[:, i], seen.actions[:, i]])
        start = np.bincount(seen.states[0, i], minlength=4) / 400
        np.testing.assert_allclose(start, t.rho[i], atol=0.1)
        for state in range(4):
            here = s == state
            if here.sum() > 500:
                np.testing.assert_allclose(
                    np.bincount(a[here], minlength=3) / here.sum(), pi[i, state], atol=5 / np.sqrt(here.sum())
                )
            for action in range(3):
                both = here & (a == action)
                if both.sum() > 500:
                    found = np.bincount(then[both], minlength=4) / both.sum()
                    np.testing.assert_allclose(found, t.P[i, state, action], atol=5 / np.sqrt(both.sum()))


def test_impossible_transitions_never_happen(two_states):
    seen = sample(two_states, np.zeros((2, 2)), 50, 60, np.random.default_rng(0))
    assert (np.diff(seen.states, axis=0) >= 0).all()  # state 1 absorbs


@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_estimates_are_unbiased(make, tau):
    """Mean of many estimates against the exact numbers, in standard errors; gamma^H is 1e-9."""
    t = make(3, N=2, S=3, A=2, gamma=0.6)
    rng = np.random.default_rng(4)
    theta, v = rng.normal(size=(2, 2, 3, 2))
    oracle, n = sampled(10, 40, rng), 3000
    draws = np.empty((2, n, 2, 3, 2))
    for k in range(n):
        g, product = oracle(t, theta, tau)
        draws[:, k] = g, product(v)
    exact = np.stack([policy_gradients(t, theta, tau), hessian_vector_products(t, theta, v, tau)])
    z = (draws.mean(1) - exact) / (draws.std(1) / np.sqrt(n))
    assert np.abs(z).max() < 4.5 and 0.5 < z.std() < 1.6
    assert (draws.std(1) < 50 * np.abs(exact).max()).all()


def test_more_trajectories_less_noise(make):
    t, theta, rng = make(), np.zeros((5, 3)), np.random.default_rng(0)
    few, many = (np.std([sampled(m, 30, rng)(t, theta)[0] for _ in range(60)], 0).mean() for m in (2, 32))
    assert 2.5 < few / many < 7


def test_every_learner_runs_on_samples_and_repeats_with_its_seed(make):
    t, theta = make(N=3), np.zeros((5, 3))
    for name, learner in LEARNERS.items():
        runs = [
            learner(t, theta, rounds=4, lam=0.1, eta=1.0, inner_steps=2, inner_step_size=1.0,
                    oracle=sampled(4, 20, np.random.default_rng(seed)))
            for seed in (1, 1, 2)
        ]  # fmt: skip
        np.testing.assert_array_equal(runs[0].personal, runs[1].personal, err_msg=name)
        assert not np.array_equal(runs[0].personal, runs[2].personal)


def test_noisy_learning_improves(make):
    t, theta = make(N=3), np.zeros((5, 3))
    oracle = sampled(8, 30, np.random.default_rng(0))
    run = pmeta(t, theta, rounds=30, lam=0.05, eta=20.0, inner_steps=3, inner_step_size=2.0, oracle=oracle)
    assert run.personal_return[-1] > values(t, theta).mean() + 0.1


def test_bad_options_are_named():
    rng = np.random.default_rng(0)
    for wrong, name in [((1, 10, rng), "trajectories"), (("2", 10, rng), "trajectories"), ((2, 0, rng), "horizon"),
                        ((2, 10, 0), "generator")]:  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name} is"):
            sampled(*wrong)
