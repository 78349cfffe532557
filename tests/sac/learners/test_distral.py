"""Distral's gradients by hand against autograd on its objective, and its limits in the KL's weight."""

import torch
from plain_sac import ROWS, A, N, agent_of, batches
from torch.distributions import Independent, Normal, kl_divergence

from pmeta_lib.sac import losses
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.learners.distral import kl, kl_gradients
from pmeta_lib.sac.networks import forward, gaussian, squash


def normal(mean, log_std):
    return Independent(Normal(mean, log_std.exp()), 1)


def test_the_divergence_and_its_gradients():
    g = torch.Generator().manual_seed(0)
    four = [torch.randn(3, 7, A, generator=g, dtype=torch.float64).requires_grad_() for _ in range(4)]
    want = kl_divergence(normal(*four[:2]), normal(*four[2:]))
    torch.testing.assert_close(kl(*four), want)
    for got, wanted in zip(kl_gradients(*(x.detach() for x in four)), torch.autograd.grad(want.sum(), four)):
        torch.testing.assert_close(got, wanted)


def test_an_update_follows_the_gradients_of_the_whole_objective():
    """Autograd on equation 1 as SAC solves it; also where log std is clamped."""
    c, agent = 0.7, agent_of(seeds=(0, 1))
    made, (batch, noise) = learner("distral", kl_weight=c), next(batches(1, seeds=2))
    made.start(agent, N)
    theta = agent.extra["theta"].mul_(1.3)
    agent.layers["actor"][-1][1][:2, :, A] += 5.0  # two slots' first log std beyond its limits
    agent.actor_shape.layers(theta.view(2, -1))[-1][1][1, :, A] -= 30.0  # and one of pi_0's
    agent.noise = lambda *shape, drawn=noise: drawn
    log_alpha, target_net = agent.log_alpha.clone(), agent.target.clone()
    actor, prior, critic = (x.clone().requires_grad_() for x in (agent.actor, theta, agent.critic))
    flat = type(batch)(*(x.flatten(0, 1) for x in batch))
    noise, noise_next = (e.flatten(0, 1) for e in noise.unbind(1))

    def heads(x):
        prior_head = forward(agent.actor_shape, prior.view(2, -1), x.view(2, N * ROWS, -1)).view(2 * N, ROWS, -1)
        return gaussian(forward(agent.actor_shape, actor.view(2 * N, -1), x)), gaussian(prior_head)

    def values(flat_critic, x, action):
        pair = torch.cat((x, action), -1).repeat_interleave(2, 0)
        return forward(agent.critic_shape, flat_critic.reshape(4 * N, -1), pair).view(2 * N, 2, ROWS)

    alpha = log_alpha.exp().view(-1, 1)
    with torch.no_grad():
        policy, prior_policy = heads(flat.next_observation)
        action, log_prob = squash(*policy, noise_next)
        entropy = alpha * log_prob + c * kl_divergence(normal(*policy), normal(*prior_policy))
        value = values(target_net, flat.next_observation, action).amin(1) - entropy
        target = flat.reward + agent.discount * (1 - flat.terminated) * value
    critic_loss = losses.critic_loss(values(critic, flat.observation, flat.action), target)
    (critic_gradient,) = torch.autograd.grad(critic_loss.sum(), critic)
    got = made.update(agent, batch)
    torch.testing.assert_close(got["critic_loss"], critic_loss.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(agent.gradients["critic"][0].view_as(critic), critic_gradient, rtol=1e-3, atol=1e-4)

    policy, prior_policy = heads(flat.observation)
    action, log_prob = squash(*policy, noise)
    divergence = kl_divergence(normal(*policy), normal(*prior_policy)).mean(-1)
    q = values(agent.critic, flat.observation, action)
    loss = losses.actor_loss(q, log_prob, alpha) + c * divergence
    (actor_gradient,) = torch.autograd.grad(loss.sum(), actor, retain_graph=True)
    scale = actor_gradient.abs().max()
    torch.testing.assert_close(agent.gradients["actor"][0].view_as(actor) / scale, actor_gradient / scale,
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    (prior_gradient,) = torch.autograd.grad(divergence.view(2, N).mean(1).sum(), prior)
    first = agent.optimizers["theta"].first / 0.1  # Adam's moment after one step
    scale = prior_gradient.abs().flatten(1).amax(1).view(2, 1, 1)
    torch.testing.assert_close(first / scale, prior_gradient / scale, rtol=1e-4, atol=1e-5)
    assert (prior_gradient.abs().flatten(1).amax(1) > 1e-3).all()


def test_without_weight_it_is_independent_exactly_and_still_distills(small):
    distral, independent = small("distral", options={"kl_weight": 0.0}), small("independent")
    assert [r for r in distral.rows if r[2] == "deployed"] == independent.rows
    assert torch.equal(distral.agent.actor, independent.agent.actor)
    start = small("distral", options={"kl_weight": 0.0}, steps=41).agent.extra["theta"]
    assert (distral.agent.extra["theta"] - start).abs().max() > 1e-2


def test_a_large_weight_makes_the_policies_one(small):
    def spread(c):
        run = small("distral", options={"kl_weight": c}, learning_rate=3e-3)
        x = run.replay.rows[0, :, 40:, :3].reshape(1, -1, 3).expand(3, -1, 3)
        policy = gaussian(forward(run.agent.actor_shape, run.agent.actor[0], x))
        prior = gaussian(forward(run.agent.actor_shape, run.agent.extra["theta"][0], x[:1]))
        return float(kl(*policy, *prior).mean())

    assert spread(100.0) < 0.05 * spread(0.0)
