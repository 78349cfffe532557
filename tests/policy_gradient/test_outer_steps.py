"""Trust regions hold, and the pieces below them agree with plain references."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.experiments.learners import learner
from pmeta_lib.policy_gradient.learner import Gaussian, gaussian, grouped, spread
from pmeta_lib.policy_gradient.outer import adapted_weight, clipped, conjugate_gradient, trust_region_step, within
from pmeta_lib.policy_gradient.rollout import Sampler, Window, advantages, linear_values
from pmeta_lib.policy_gradient.training import start
from pmeta_lib.sac.networks import Shape
from pmeta_lib.sac.settings import Settings


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def windows_of(name, seeds=(0, 1), **options):
    made = dataclasses.replace(family("pendulum-params", train=3), horizon=20)
    run = start(made, learner(name, episodes=6, **options), Settings(hidden=(8,), learning_rate=0.05), list(seeds))
    theta = run.state["policy"]
    return run, theta, run.learner.collect(run, theta)


@pytest.mark.parametrize("name", ["pg-maml", "pg-joint", "pg-independent"])
@pytest.mark.parametrize("limit", [0.01, 0.0005])
def test_a_trpo_step_moves_the_adapted_policies_and_holds_their_divergence(name, limit):
    run, theta, windows = windows_of(name, kl_limit=limit)
    new, losses = run.learner.update(run, theta, windows)
    *inner, post = windows
    rows = run.learner.adapted(run.shape, spread(new, 3), inner)[-1]
    with torch.no_grad():
        kl = grouped(post.policy.kl(gaussian(run.shape, rows, post.observation)).mean((1, 2)), theta.shape[:2])
    torch.testing.assert_close(kl, losses["kl"])
    assert (kl <= limit).all() and (kl > limit / 50).all() and (losses["objective"] > 0).all()


def test_a_promp_step_is_drawn_back_to_twice_its_target():
    run, theta, windows = windows_of("promp", kl_limit=0.001, epochs=20)
    weight = run.state["weight"].clone()
    new, losses = run.learner.update(run, theta, windows)
    with torch.no_grad():
        there = gaussian(run.shape, spread(new, 3), windows[0].observation)
        kl = grouped(windows[0].policy.kl(there).mean((1, 2)), theta.shape[:2])
    torch.testing.assert_close(kl, losses["kl"])
    assert (kl <= 0.002).all() and not torch.equal(new, theta)
    assert torch.equal(run.state["weight"], adapted_weight(weight, kl, 0.001))


def test_an_rl2_step_holds_its_divergence():
    run, theta, windows = windows_of("rl2", kl_limit=0.001, epochs=20)
    _, losses = run.learner.update(run, theta, windows)
    assert (losses["kl"] <= 0.002).all() and (losses["kl"] > 0).all()


def test_a_row_whose_objective_cannot_get_better_stays():
    theta = torch.zeros(2, 1, 3)
    better = torch.tensor([[True], [False]])
    objective = lambda x: torch.where(better[..., None], x, -x).sum(-1)  # noqa: E731
    divergence = lambda x: 0.5 * (x**2).sum(-1)  # noqa: E731
    scored = lambda x: (objective(x), divergence(x))  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"gradient .* is not finite"):  # to stay at theta would hide it
        trust_region_step(theta, torch.full((2, 1, 3), torch.nan), lambda v: v, scored, 0.02)
    new, losses = trust_region_step(theta, torch.ones(2, 1, 3), lambda v: v, scored, 0.02)
    assert torch.equal(losses["objective"], objective(new)) and torch.equal(losses["kl"], divergence(new))
    assert torch.allclose(0.5 * (new[0] ** 2).sum(), torch.tensor(0.02)) and not new[1].any()
    assert torch.equal(within(theta, theta + 1, lambda x: x.sum(-1) <= 0.8), torch.full((2, 1, 3), 0.25))


def test_conjugate_gradients_solve_and_clipping_is_pessimistic():
    a = torch.randn(2, 1, 5, 5, generator=generator(), dtype=torch.float64)
    a = a @ a.mT + torch.eye(5, dtype=torch.float64)
    b = torch.randn(2, 1, 5, generator=generator(1), dtype=torch.float64)
    x = conjugate_gradient(lambda v: (a @ v.unsqueeze(-1)).squeeze(-1), b)
    torch.testing.assert_close((a @ x.unsqueeze(-1)).squeeze(-1), b, rtol=1e-6, atol=1e-6)
    ratio, advantage = torch.tensor([0.5, 0.5, 1.5, 1.5]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert clipped(ratio, advantage, 0.2).tolist() == pytest.approx([0.5, -0.8, 1.2, -1.5])


def test_densities_and_divergences_are_torchs():
    from torch.distributions import Independent, Normal, kl_divergence

    draw = lambda k, *size: torch.randn(size, generator=generator(k))  # noqa: E731
    a, b = (Gaussian(draw(k, 2, 3, 4, 2), draw(9 + k, 2, 1, 1, 2)) for k in (0, 1))
    theirs = [Independent(Normal(g.mean, g.log_std.exp().expand_as(g.mean)), 1) for g in (a, b)]
    action = torch.randn(2, 3, 4, 2, generator=generator(5))
    torch.testing.assert_close(a.log_prob(action), theirs[0].log_prob(action))
    torch.testing.assert_close(a.kl(b), kl_divergence(*theirs))


def test_advantages_are_the_textbooks_sums():
    reward, value = torch.randn(2, 3, 7, generator=generator()), torch.randn(2, 3, 7, generator=generator(1))
    last, ended = torch.randn(2, 3, generator=generator(2)), torch.rand(2, 3, 7, generator=generator(3)) < 0.3
    ours = advantages(reward, ended, value, last, 0.9, 0.8)
    for b, e in np.ndindex(2, 3):
        for t in range(7):
            total, weight = 0.0, 1.0
            for k in range(t, 7):
                stop = bool(ended[b, e, k])
                following = 0.0 if stop else float(last[b, e] if k == 6 else value[b, e, k + 1])
                total += weight * (float(reward[b, e, k]) + 0.9 * following - float(value[b, e, k]))
                weight *= 0.9 * 0.8
                if stop:
                    break
            assert float(ours[b, e, t]) == pytest.approx(total, abs=1e-5)


def test_the_baseline_fits_what_is_linear_and_leaves_unfinished_episodes_out():
    observation = torch.randn(1, 4, 1, 2, generator=generator()).expand(1, 4, 6, 2)  # an episode stays where it is
    ended = torch.zeros(1, 4, 6, dtype=torch.bool)
    ended[..., 2] = True  # the second episode of each slot is cut by the window
    reward = torch.zeros(1, 4, 6)
    reward[..., 2] = 1.0 + observation[..., 2, 0]
    reward[..., 3:] = 1e6
    value, last = linear_values(Window(observation, None, reward, ended, observation[..., -1, :]), 1.0)
    expected = 1.0 + observation[..., 0]
    torch.testing.assert_close(value, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(last, expected[..., 0], atol=1e-3, rtol=0)


def test_a_window_is_what_gymnasium_does():
    """Episodes of the sampler are those of single environments with the same actions."""
    place = dataclasses.replace(family("pendulum-params", train=2), horizon=9)
    sampler = Sampler(place, place.train_tasks, [3], 2)
    shape = Shape((3, 8, 1))
    rows = learner("promp").new_policy(shape, generator()).repeat(2, 1)
    assert rows.shape == (2, shape.size + 1)
    window = sampler.roll(lambda o, n, r, e: gaussian(shape, rows, o.unsqueeze(2)).mean.squeeze(2) + n, 9)
    assert window.ended[..., -1].all() and not window.ended[..., :-1].any()
    env = gymnasium.make(place.env_id, task=place.train_tasks[1])
    env.reset()
    cos, sin, speed = window.observation[1, 0, 0].double().numpy()
    env.unwrapped.state = np.array([np.arctan2(sin, cos), speed])
    for t in range(9):
        observation, reward, *_ = env.step(2.0 * window.action[1, 0, t].clamp(-1, 1).numpy())
        assert reward == pytest.approx(float(window.reward[1, 0, t]), abs=1e-3)
        then = window.last[1, 0] if t == 8 else window.observation[1, 0, t + 1]
        np.testing.assert_allclose(observation, then.numpy(), atol=1e-3)
    assert window.episode_returns(1)[1, 0, 0] == pytest.approx(float(window.reward[1, 0].sum()), rel=1e-5)
