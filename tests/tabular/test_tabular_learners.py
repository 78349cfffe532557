"""The exact reductions (to 1e-12), limits, baselines, and stops that keep the last good state."""

import inspect

import numpy as np
import pytest

from pmeta_lib.tabular import (
    LEARNERS,
    Diverged,
    TaskBatch,
    adapt,
    fomaml,
    independent,
    joint,
    maml,
    maml_gradients,
    pcgrad,
    pmeta,
    policy_gradients,
    project_conflicts,
    prox,
    reptile,
    sampled,
    values,
)
from pmeta_lib.tabular.families import garnet

SMALL = dict(rounds=6, lam=0.2, eta=4.0, inner_steps=3, inner_step_size=1.5)


@pytest.fixture(scope="module")
def tasks():
    return garnet(0.6, n_train=5, n_test=1, states=8, actions=3).train


@pytest.fixture(scope="module")
def theta0():
    return np.random.default_rng(0).normal(size=(8, 3))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_one_cold_step_is_joint_ascent(tasks, theta0, tau):
    run = pmeta(tasks, theta0, rounds=15, lam=0.1, eta=3.0, inner_steps=1, inner_step_size=2.0, beta=0.7,
                warm_start=False, tau=tau)  # fmt: skip
    peer = joint(tasks, theta0, rounds=15, eta=0.7 * 3.0 * 0.1 * 2.0, tau=tau)
    close(run.theta, peer.theta)
    close(run.meta_return, peer.meta_return)


def test_two_cold_steps_are_first_order_maml(tasks, theta0):
    run = pmeta(tasks, theta0, rounds=15, lam=0.5, eta=2.0, inner_steps=2, inner_step_size=2.0, warm_start=False)
    peer = fomaml(tasks, theta0, rounds=15, inner_steps=1, inner_step_size=2.0, eta=2.0)
    close(run.theta, peer.theta)


def test_vanishing_lam_cold_is_reptile(tasks, theta0):
    # at 2^-50 the difference, of the size of lam, is far below 1e-12, and eta * lam is exact
    run = pmeta(tasks, theta0, rounds=15, lam=2.0**-50, eta=0.5 * 2.0**50, inner_steps=4, inner_step_size=2.0,
                warm_start=False)  # fmt: skip
    peer = reptile(tasks, theta0, rounds=15, inner_steps=4, inner_step_size=2.0, eta=0.5)
    close(run.theta, peer.theta)
    close(run.personal, peer.personal)


def test_no_penalty_warm_is_independent_learning(tasks, theta0):
    run = pmeta(tasks, theta0, rounds=15, lam=0.0, eta=1.0, inner_steps=4, inner_step_size=2.0)
    peer = independent(tasks, theta0, rounds=15, inner_steps=4, inner_step_size=2.0)
    close(run.personal, peer.personal)
    close(run.theta, theta0)
    for i in range(len(tasks)):
        alone = independent(tasks[i], theta0, rounds=15, inner_steps=4, inner_step_size=2.0)
        close(alone.personal[0], peer.personal[i])


def test_large_lam_is_one_shared_policy(tasks, theta0):
    lam = 1e7
    run = pmeta(tasks, theta0, rounds=20, lam=lam, eta=0.5 / lam * 1e4, inner_steps=1, inner_step_size=1 / lam,
                beta=1e-4, warm_start=False)  # fmt: skip
    assert np.abs(run.personal - run.theta).max() < 1e-5


def test_one_task_and_identical_tasks(tasks, theta0):
    one = pmeta(tasks[0], theta0, **SMALL)
    same = pmeta(tasks[[0, 0, 0]], theta0, **SMALL)
    close(one.theta, same.theta)
    close(one.meta_return, same.meta_return)
    # one task: the fixed point of the envelope is a stationary point of J itself
    long = pmeta(tasks[0], theta0, rounds=400, lam=0.5, eta=2.0, inner_steps=20, inner_step_size=1.0, tau=1.0)
    assert np.abs(policy_gradients(tasks[0], long.theta, 1.0)).max() < 1e-6


def test_permuting_tasks_changes_nothing(tasks, theta0):
    order = np.array([3, 0, 4, 1, 2])
    a, b = pmeta(tasks, theta0, **SMALL), pmeta(tasks[order], theta0, **SMALL)
    close(a.theta, b.theta)
    close(a.personal[order], b.personal)


@pytest.mark.parametrize("warm", [True, False])
def test_stacked_equals_the_pseudocode_with_a_loop_over_tasks(tasks, theta0, warm):
    """R = 2, K = 3, beta = 0.6, three of five tasks a round: plain loops, one task at a time."""
    T, lam, eta, s, K, R, beta, n = 5, 0.2, 2.0, 1.5, 3, 2, 0.6, 3
    run = pmeta(tasks, theta0, rounds=T, lam=lam, eta=eta, inner_steps=K, inner_step_size=s, local_steps=R,
                beta=beta, warm_start=warm, tasks_per_round=n, generator=np.random.default_rng(7))  # fmt: skip
    rng, theta, y = np.random.default_rng(7), theta0, [theta0] * 5
    for t in range(T):
        copies = []
        for i in np.sort(rng.choice(5, n, replace=False)):
            w = theta
            for _ in range(R):
                y[i] = y[i] if warm else w
                for _ in range(K):
                    y[i] = y[i] + s * (policy_gradients(tasks[i], y[i])[0] - lam * (y[i] - w))
                w = w - eta * lam * (w - y[i])
            copies.append(w)
        theta = (1 - beta) * theta + beta * np.mean(copies, 0)
        assert run.meta_return[t] == pytest.approx(values(tasks, theta).mean(), abs=1e-12)
    close(run.theta, theta)
    close(run.personal, np.stack(y))
    assert run.evaluations[-1] == pytest.approx(T * R * K * n / 5)


def test_history_is_consistent(tasks, theta0):
    for name, learner in LEARNERS.items():
        run = learner(tasks, theta0, **SMALL)  # one dict of settings serves every learner
        assert run.learner == name and run.theta.shape == (8, 3) and run.personal.shape == (5, 8, 3)
        for curve in (run.meta_return, run.personal_return, run.gradient_norm, run.evaluations):
            assert curve.shape == (6,) and np.isfinite(curve).all()
        assert run.meta_return[-1] == pytest.approx(values(tasks, run.theta).mean(), abs=1e-12)
        assert run.personal_return[-1] == pytest.approx(values(tasks, run.personal).mean(), abs=1e-12)
        assert set(inspect.signature(learner).parameters) == set(inspect.signature(pmeta).parameters)
        assert (theta0 == np.random.default_rng(0).normal(size=(8, 3))).all()  # the caller's array is untouched


def test_inner_loop_to_the_end_is_the_prox(tasks, theta0):
    run = pmeta(tasks, theta0, rounds=1, lam=2.0, eta=0.3, inner_steps=200, inner_step_size=0.4)
    np.testing.assert_allclose(run.personal, prox(tasks, theta0, 2.0), atol=1e-9)
    expected = 2.0 * np.linalg.norm(theta0 - prox(tasks, theta0, 2.0).mean(0))
    assert run.gradient_norm[0] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_maml_gradient_is_the_derivative_of_the_adapted_return(tasks, theta0, tau):
    def adapted(theta):
        y = theta
        for _ in range(3):
            y = y + 1.5 * policy_gradients(tasks, y, tau)
        return values(tasks, y, tau)

    g, y = maml_gradients(tasks, theta0, 3, 1.5, tau)
    u = np.random.default_rng(1).normal(size=(8, 3))
    slope = (adapted(theta0 + 1e-5 * u) - adapted(theta0 - 1e-5 * u)) / 2e-5
    np.testing.assert_allclose((g * u).sum((1, 2)), slope, atol=1e-6)
    first, _ = maml_gradients(tasks, theta0, 3, 1.5, tau, second_order=False)
    np.testing.assert_allclose(first, policy_gradients(tasks, y, tau))
    assert np.abs(first - g).max() > 1e-3  # the second order is really there
    step = maml(tasks, theta0, rounds=1, inner_steps=3, inner_step_size=1.5, eta=0.1, tau=tau)
    close(step.theta, theta0 + 0.1 * g.mean(0))


def test_pcgrad_projects_by_hand(tasks, theta0):
    g = np.array([[[1.0, 0.0]], [[-1.0, 1.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(project_conflicts(g), [[[0.5, 0.5]], [[0.0, 1.0]], [[0.0, 1.0]]], atol=1e-15)
    agreeing = np.abs(np.random.default_rng(0).normal(size=(4, 2, 3)))
    np.testing.assert_array_equal(project_conflicts(agreeing, np.random.default_rng(0)), agreeing)
    a = pcgrad(tasks, theta0, rounds=4, eta=2.0, generator=np.random.default_rng(3))
    b = pcgrad(tasks, theta0, rounds=4, eta=2.0, generator=np.random.default_rng(3))
    close(a.theta, b.theta)


def test_learning_happens(tasks):
    start = values(tasks, np.zeros((8, 3))).mean()
    for name, learner in LEARNERS.items():
        run = learner(tasks, np.zeros((8, 3)), rounds=30, lam=0.02, eta=50.0 if name == "pmeta" else 1.0,
                      inner_steps=3, inner_step_size=5.0)  # fmt: skip
        assert run.personal_return[-1] > start + 0.05, name


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lam": -0.1}, "lam"), ({"lam": np.nan}, "lam"), ({"rounds": 0}, "rounds"), ({"eta": -1.0}, "eta"),
        ({"inner_steps": 2.5}, "inner_steps"), ({"inner_step_size": 0.0}, "inner_step_size"),
        ({"tasks_per_round": 9}, "tasks_per_round"), ({"tasks_per_round": 2}, "generator"),
        ({"local_steps": 0}, "local_steps"), ({"beta": "x"}, "beta"), ({"tau": -1}, "tau"),
        ({"lam": "0.2"}, "lam"), ({"lam": True}, "lam"), ({"eta": None}, "eta"), ({"rounds": True}, "rounds"),
        ({"tau": [0.1]}, "tau"), ({"tasks_per_round": True}, "tasks_per_round"), ({"warm_start": "no"}, "warm_start"),
        ({"generator": 0}, "generator"), ({"tasks_per_round": 2, "generator": 0}, "generator"),
        ({"oracle": "exact"}, "oracle"), ({"trace": 1}, "trace"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(tasks, theta0, changes, words):
    with pytest.raises(ValueError, match=f"^{words} is"):
        pmeta(tasks, theta0, **(SMALL | changes))


def test_bad_start_is_named(tasks):
    with pytest.raises(ValueError, match="theta0 has shape"):
        pmeta(tasks, np.zeros((3, 3)), **SMALL)
    with pytest.raises(TypeError, match="inner_stepsize"):
        joint(tasks, np.zeros((8, 3)), rounds=3, inner_stepsize=1.0)
    for learner in (pmeta, joint):
        with pytest.raises(ValueError, match=r"tasks is a Family.*\.train"):
            learner(garnet(), np.zeros((20, 4)), **SMALL)
    with pytest.raises(ValueError, match="theta has shape"):
        maml_gradients(tasks, np.zeros((3, 3)), 1, 1.0)


@pytest.mark.parametrize("oracle", [{}, {"oracle": sampled(2, 5, np.random.default_rng(0))}], ids=["exact", "sampled"])
@pytest.mark.parametrize(
    "changes",
    [{"inner_step_size": 20.0, "inner_steps": 1500}, {"eta": 50.0, "local_steps": 1500, "inner_steps": 1},
     {"inner_step_size": 1e308, "inner_steps": 9}],
)  # fmt: skip
def test_divergence_within_one_round_is_named_too(tasks, theta0, changes, oracle, recwarn):
    with pytest.raises(Diverged, match=r"in round 0, first in task \d") as error:
        pmeta(tasks, theta0, **(SMALL | changes | oracle))
    np.testing.assert_array_equal(error.value.history.theta, theta0)
    assert not recwarn.list  # one line of words, not numpy's overflow warnings


def test_adaptation_refuses_what_cannot_work(tasks, theta0):
    with pytest.raises(ValueError, match=r"adapt diverged at step \d, first in task 0: step_size \* lam = 100"):
        adapt(tasks, theta0, steps=50, step_size=100.0, lam=1.0)
    for steps in (-1, 2.5, True):
        with pytest.raises(ValueError, match=r"^steps is"):
            adapt(tasks, theta0, steps=steps, step_size=1.0)
    with pytest.raises(ValueError, match="step_size is"):
        adapt(tasks, theta0, steps=3, step_size="1")


@pytest.mark.parametrize(
    "changes, remedy", [({"inner_step_size": 40.0}, "inner_step_size < 10"), ({"eta": 50.0}, "eta < 10")]
)
def test_divergence_stops_and_keeps_the_last_good_state(tasks, theta0, changes, remedy):
    with pytest.raises(Diverged, match=r"task \d") as error:
        pmeta(tasks, theta0, **(SMALL | {"rounds": 200} | changes))
    assert remedy in str(error.value) and "\n" not in str(error.value)
    kept = error.value.history
    assert np.isfinite(kept.theta).all() and np.isfinite(kept.personal).all()
    T = len(kept.meta_return)
    assert 0 < T < 200 and kept.meta_return[-1] == pytest.approx(values(tasks, kept.theta).mean())
    again = pmeta(tasks, theta0, **(SMALL | {"rounds": T} | changes))
    close(again.theta, kept.theta)


def test_adaptation_is_gradient_ascent_on_the_new_task(tasks, theta0):
    y, curve = adapt(tasks, theta0, steps=3, step_size=0.7, lam=0.1)
    x = np.broadcast_to(theta0, tasks.shape)
    for k in range(4):
        np.testing.assert_allclose(curve[k], values(tasks, x), atol=1e-12)
        x = x + 0.7 * (policy_gradients(tasks, x) - 0.1 * (x - theta0)) if k < 3 else x
    close(y, x)


def test_many_tasks_take_the_same_path():
    big = garnet(0.5, n_train=300, n_test=1, states=6, actions=2)
    run = pmeta(big.train, np.zeros((6, 2)), **SMALL)
    few = TaskBatch.concatenate([big.train[:2]] * 150)
    again = pmeta(few, np.zeros((6, 2)), **SMALL)
    close(again.theta, pmeta(big.train[:2], np.zeros((6, 2)), **SMALL).theta)
    assert run.personal.shape == (300, 6, 2)
