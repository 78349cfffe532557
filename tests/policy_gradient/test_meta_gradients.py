"""The estimators beside exact derivatives: tabular tasks with softmax policies, whose meta-gradient is known.

The learners' own `adapted` and surrogates do the work, on trajectories from `pmeta_lib.tabular.sampling`, which shares
no code with them. A batch of trajectories is so large that the step's own noise (of order 1 / trajectories) cannot be
seen beside the standard error (of order 1 / their root), which comes from independent batches.
"""

import numpy as np
import pytest
import torch

from pmeta_lib import tabular
from pmeta_lib.policy_gradient.learner import adapted, dice, low_variance, plain
from pmeta_lib.policy_gradient.rollout import Window

HORIZON, STEP, BATCHES, TRAJECTORIES = 6, 2.0, 24, 4000


@pytest.fixture(scope="module")
def tasks():
    """Two tasks of three states and two actions, a dead end behind every path so that six steps are all there is."""
    rng = np.random.default_rng(3)
    S = 3
    P = rng.dirichlet(np.ones(S), (2, S, 2))
    return tabular.TaskBatch(P, rng.random((2, S, 2)), np.full((2, S), 1 / S), 0.3)


def log_prob(rows, window):
    """(N, E, H) of softmax policies: `rows (N, S A)`, observations are states, actions whole numbers."""
    logits = torch.log_softmax(rows.view(len(rows), 3, 2), -1).flatten(1)
    cells = (2 * window.observation + window.action).flatten(1)
    return logits.gather(1, cells).view(window.observation.shape)


def window_of(tasks, rows, generator):
    """Trajectories of `rows`, with discounted returns to go minus their mean at each step as advantages (the mean over
    so many others is as good as a constant, so that the estimate stays unbiased)."""
    seen = tabular.sample(tasks, rows.detach().view(-1, 3, 2).numpy(), TRAJECTORIES, HORIZON, generator)
    states, actions, rewards = (torch.from_numpy(x).movedim(0, -1) for x in (seen.states, seen.actions, seen.rewards))
    to_go = (rewards * tasks.gamma ** torch.arange(HORIZON)).flip(-1).cumsum(-1).flip(-1)
    ended = torch.zeros(rewards.shape, dtype=torch.bool)
    ended[..., -1] = True
    window = Window(states, actions, rewards, ended, states[..., -1])
    window.advantage = to_go - to_go.mean(1, keepdim=True)
    window.log_prob = log_prob(rows, window).detach()
    return window


def meta_gradients(tasks, theta, surrogate, steps=1):
    """(BATCHES, N, S A) estimates of d/dtheta J_i after `steps` inner steps."""
    out, generator = [], np.random.default_rng(0)
    for _ in range(BATCHES):
        start = torch.tensor(theta, dtype=torch.float64).flatten().repeat(2, 1).requires_grad_()
        rows, windows = start, []
        for _ in range(steps):
            windows.append(window_of(tasks, rows, generator))
            rows = adapted(rows, windows[-1:], log_prob, surrogate, STEP * HORIZON, graph=True)[-1]
        after = window_of(tasks, rows, generator)
        gain = (torch.exp(log_prob(rows, after) - after.log_prob) * after.advantage).mean((1, 2)) * HORIZON
        out.append(torch.autograd.grad(gain.sum(), start)[0].numpy())
    return np.stack(out)


def deviations(estimates, exact):
    """How many standard errors each entry of the mean is off."""
    error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
    return np.abs(estimates.mean(0) - exact.reshape(estimates.shape[1:])) / error


@pytest.fixture(scope="module")
def theta():
    return np.random.default_rng(1).normal(0, 0.5, (3, 2))


@pytest.mark.parametrize("steps", [1, 2])
def test_dice_is_the_exact_second_order_meta_gradient_and_the_plain_surrogate_is_not(tasks, theta, steps):
    exact, _ = tabular.maml_gradients(tasks, theta, steps, STEP)
    assert deviations(meta_gradients(tasks, theta, dice, steps), exact).max() < 4.0  # of 12 entries
    assert deviations(meta_gradients(tasks, theta, plain, steps), exact).max() > 15.0


def hessian_products(tasks, theta, surrogate, v):
    """(BATCHES, N, S A) estimates of the surrogate's second derivative times v, and of its first."""
    second, first, generator = [], [], np.random.default_rng(5)
    for _ in range(BATCHES):
        rows = torch.tensor(theta, dtype=torch.float64).flatten().repeat(2, 1).requires_grad_()
        window = window_of(tasks, rows, generator)
        value = surrogate(log_prob(rows, window), window).mean((1, 2)).sum() * HORIZON
        (gradient,) = torch.autograd.grad(value, rows, create_graph=True)
        first.append(gradient.detach().numpy())
        second.append(torch.autograd.grad((gradient * torch.tensor(v).flatten()).sum(), rows)[0].numpy())
    return np.stack(second), np.stack(first)


def curvature_without_joining_terms(tasks, theta, v):
    """What ProMP's estimator claims: E sum_t Q_t (score_t score_t' + d score_t) v, exactly: d/dtheta of
    D(s) pi(a|s) Q(s,a) with D and Q held fixed, twice."""
    at = tabular.evaluate(tasks, theta)
    pi = at.pi
    centred = v - (pi * v).sum(-1, keepdims=True)
    weight = at.D[..., None] * pi * at.advantages  # d2 pi[v] = pi (centred^2 - var) and its cross terms, by the chain
    product = weight * centred
    return product - pi * product.sum(-1, keepdims=True) - pi * centred * weight.sum(-1, keepdims=True)


def test_every_surrogate_has_the_policy_gradient_as_its_first_derivative(tasks, theta):
    exact = tabular.policy_gradients(tasks, theta)
    for surrogate in (plain, low_variance, dice):
        _, first = hessian_products(tasks, theta, surrogate, np.ones((3, 2)))
        assert deviations(first, exact).max() < 4.0


def test_low_variance_curvature_is_what_it_claims_and_has_less_noise_than_dice(tasks, theta):
    v = np.random.default_rng(2).normal(size=(3, 2))
    exact = tabular.hessian_vector_products(tasks, theta, v)
    claimed = curvature_without_joining_terms(tasks, theta, v)
    low, _ = hessian_products(tasks, theta, low_variance, v)
    full, _ = hessian_products(tasks, theta, dice, v)
    assert deviations(low, claimed).max() < 4.0 and deviations(full, exact).max() < 4.0
    assert deviations(low, exact).max() > 8.0  # it is biased where later values depend on the action
    assert low.std(0).mean() < 0.8 * full.std(0).mean()


def test_low_variance_curvature_is_exact_where_nothing_follows_an_action(theta):
    rng = np.random.default_rng(4)
    P = rng.dirichlet(np.ones(3), (2, 3, 2))
    bandits = tabular.TaskBatch(P, rng.random((2, 3, 2)), np.full((2, 3), 1 / 3), 0.0)
    v = rng.normal(size=(3, 2))
    low, _ = hessian_products(bandits, theta, low_variance, v)
    assert deviations(low, tabular.hessian_vector_products(bandits, theta, v)).max() < 4.0


def test_dice_keeps_episodes_of_a_window_apart():
    """An episode's advantages are not joined with the actions of the one before it in the same window."""
    ended = torch.tensor([[[False, True, False, False, True]]])
    window = Window(None, None, torch.zeros(1, 1, 5), ended, None)
    window.advantage = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
    assert window.first.flatten().tolist() == [0, 0, 2, 2, 2]
    x = torch.zeros(1, 1, 5, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: dice(x, window).sum(), x).view(5, 5)
    assert hessian[4].tolist() == [0, 0, 1, 1, 1] and not hessian[:2].any()
