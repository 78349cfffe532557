"""The stacked, hand-differentiated update against a plain single-task SAC written here with torch.nn."""

import copy

import pytest
import torch
from plain_sac import ROWS, A, N, O, Plain, agent_of, assert_slot, batches, layers_of

from pmeta_lib.sac import losses
from pmeta_lib.sac.networks import forward, gaussian, squash
from pmeta_lib.sac.update import sac_update


def test_losses_and_gradients_of_every_slot_equal_a_plain_implementation():
    agent = agent_of()
    plain = [Plain(agent, b) for b in range(N)]
    for batch, noise in batches(4):
        agent.noise = lambda *shape, noise=noise: noise
        got = sac_update(agent, batch)
        for b in range(N):
            one = type(batch)(*(x[0, b] for x in batch))
            for name, want in plain[b].update(one, noise[0, :, b]).items():
                torch.testing.assert_close(got[name][b], want.detach(), rtol=1e-5, atol=1e-5)
            assert_slot(agent.actor_shape, agent.gradients["actor"][0][b], layers_of(plain[b].actor, grad=True))
            assert_slot(agent.actor_shape, agent.actor[0, b], layers_of(plain[b].actor))
            for k in range(2):
                assert_slot(agent.critic_shape, agent.gradients["critic"][0][2 * b + k], plain[b].critic_gradients[k])
                assert_slot(agent.critic_shape, agent.critic[0, b, k], layers_of(plain[b].critics[k]))
                assert_slot(agent.critic_shape, agent.target[0, b, k], layers_of(plain[b].targets[k]))
            torch.testing.assert_close(agent.log_alpha[0, b], plain[b].log_alpha.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log_std_bias", [0.0, 5.0, -30.0])
def test_gradients_by_hand_equal_autograd_of_the_losses(log_std_bias):
    """Also where log std is clamped, whose gradient is zero."""
    agent = agent_of()
    agent.layers["actor"][-1][1][..., A:] += log_std_bias
    batch, noise = next(batches(1))
    agent.noise = lambda *shape: noise
    slots, flat = agent.slots, type(batch)(*(x[0] for x in batch))
    alpha = agent.log_alpha.view(slots, 1).exp()
    log_alpha = agent.log_alpha.view(slots).clone().requires_grad_()
    actor, critic = (x.flatten(0, 1).clone().requires_grad_() for x in (agent.actor, agent.critic))

    def values(parameters, observation, action):
        pair = torch.cat((observation, action), -1).repeat_interleave(2, 0)
        return forward(agent.critic_shape, parameters.reshape(2 * slots, -1), pair).view(slots, 2, ROWS)

    with torch.no_grad():
        next_action, next_log_prob = squash(
            *gaussian(forward(agent.actor_shape, actor, flat.next_observation)), noise[0, 1]
        )
        next_q = values(agent.target, flat.next_observation, next_action)
        target = losses.td_target(flat.reward, flat.terminated, next_q, next_log_prob, alpha, agent.discount)
    critic_loss = losses.critic_loss(values(critic, flat.observation, flat.action), target)
    (want_critic,) = torch.autograd.grad(critic_loss.sum(), critic)
    sac_update(agent, batch)
    got = agent.gradients["critic"][0].view_as(want_critic)
    torch.testing.assert_close(got, want_critic, rtol=1e-4, atol=1e-6)

    action, log_prob = squash(*gaussian(forward(agent.actor_shape, actor, flat.observation)), noise[0, 0])
    q = values(agent.critic, flat.observation, action)  # the updated critic, as in the update
    (want_actor,) = torch.autograd.grad(losses.actor_loss(q, log_prob, alpha).sum(), actor)
    torch.testing.assert_close(agent.gradients["actor"][0], want_actor, rtol=1e-4, atol=1e-6)
    assert (agent.layers["actor"][-1][1].shape[-1] == 2 * A) and want_actor.abs().max() > 0
    (want,) = torch.autograd.grad(losses.temperature_loss(log_alpha, log_prob, agent.target_entropy).sum(), log_alpha)
    first = agent.optimizers["log_alpha"].first.flatten() / 0.1  # Adam's first moment after one step
    torch.testing.assert_close(first, want, rtol=1e-4, atol=1e-6)


def test_a_stack_equals_single_runs_over_200_updates():
    """B slots together, and each alone with the same data and noise."""
    agent = agent_of(seeds=(0, 1), policies=2)
    alone = []
    for s in range(2):
        for i in range(2):
            one = agent_of(seeds=(0,), policies=1)
            for name in ("actor", "critic", "target", "log_alpha"):
                getattr(one, name).copy_(getattr(agent, name)[s : s + 1, i : i + 1])
            alone.append((s, i, one))
    before = agent.actor.clone()
    for batch, noise in batches(200, seeds=2, tasks=2):
        agent.noise = lambda *shape, noise=noise: noise
        sac_update(agent, batch)
        for s, i, one in alone:
            one.noise = lambda *shape, s=s, i=i, noise=noise: noise[s : s + 1, :, i : i + 1]
            sac_update(one, type(batch)(*(x[s : s + 1, i : i + 1] for x in batch)))
    assert (agent.actor - before).abs().max() > 0.05  # it has gone somewhere
    for s, i, one in alone:
        for name in ("actor", "critic", "target", "log_alpha"):
            torch.testing.assert_close(getattr(agent, name)[s, i], getattr(one, name)[0, 0], rtol=2e-3, atol=2e-4)


def test_learning_rate_temperature_and_targets_take_effect():
    batch, noise = next(batches(1))
    moved = {}
    for rate in (1e-3, 1e-2):
        agent = agent_of(learning_rate=rate)
        agent.noise = lambda *shape: noise
        before = {n: getattr(agent, n).clone() for n in ("actor", "critic", "target", "log_alpha")}
        sac_update(agent, batch)
        moved[rate] = {n: (getattr(agent, n) - x).abs().max().item() for n, x in before.items()}
        torch.testing.assert_close(agent.target, before["target"].lerp(agent.critic, agent.polyak))
    for name in ("actor", "critic", "log_alpha"):  # Adam's first step is the learning rate's size
        assert moved[1e-3][name] == pytest.approx(1e-3, rel=1e-2) and moved[1e-2][name] == pytest.approx(1e-2, rel=1e-2)
    assert moved[1e-3]["target"] > 0
    cold, hot = agent_of(), agent_of()
    hot.log_alpha += 2.0
    for agent in (cold, hot):
        agent.noise = lambda *shape: noise
    difference = (sac_update(cold, batch)["critic_loss"] - sac_update(hot, batch)["critic_loss"]).abs()
    assert difference.min() > 1e-3
    low, high = agent_of(target_entropy=-20.0), agent_of(target_entropy=20.0)
    start = low.log_alpha.clone()
    for agent in (low, high):
        agent.noise = lambda *shape: noise
        sac_update(agent, batch)
    assert (low.log_alpha < start).all() and (high.log_alpha > start).all()  # too much entropy, too little


def test_a_learners_terms_reach_the_gradients():
    batch, noise = next(batches(1))
    plain, changed = agent_of(), agent_of()
    for agent in (plain, changed):
        agent.noise = lambda *shape: noise
    sac_update(plain, batch)
    seen = {}

    def head(observation, mean, log_std):
        seen["shapes"] = (observation.shape, mean.shape, log_std.shape)
        return torch.full_like(mean, 0.1), torch.zeros_like(log_std)

    sac_update(
        changed, batch, head, lambda g: seen.setdefault("actor", g) * 0, lambda g: seen.setdefault("critic", g) * 2
    )
    assert seen["shapes"] == ((N, ROWS, O), (N, ROWS, A), (N, ROWS, A))
    bias = agent.actor_shape.layers(changed.gradients["actor"][0] - plain.gradients["actor"][0])[-1][1]
    torch.testing.assert_close(bias[:, 0, :A], torch.full((N, A), 0.1 * ROWS), rtol=2e-2, atol=2e-2)
    assert seen["actor"].shape == agent.actor.shape and seen["critic"].shape == agent.critic.shape
    assert torch.equal(changed.actor, agent_of().actor)  # its gradient was made zero
    torch.testing.assert_close(changed.optimizers["critic"].first, 2 * plain.optimizers["critic"].first)


def test_products_in_bfloat16_change_an_update_by_their_rounding_alone():
    """Everything kept is float32; gradients (Adam's first moments) and losses agree to a few parts in a hundred, and
    whatever changes the parameters from outside is seen by the next update."""
    agents = [agent_of(hidden=(64, 64), product_type=dtype) for dtype in (torch.float32, torch.bfloat16)]
    outside = torch.randn(agents[0].critic.shape, generator=torch.Generator().manual_seed(1)) * 0.2
    for round_, (batch, noise) in enumerate(batches(2)):
        losses_of = []
        if round_:
            agents[0].critic.add_(outside)
            for name in ("actor", "critic", "target", "log_alpha"):
                getattr(agents[1], name).copy_(getattr(agents[0], name))
        for agent in agents:
            agent.noise = lambda *shape, noise=noise: noise
            losses_of.append(sac_update(agent, batch))
        if round_:  # the first, from equal parameters
            continue
        for name, want in losses_of[0].items():
            assert not torch.equal(losses_of[1][name], want), name
            torch.testing.assert_close(losses_of[1][name], want, rtol=0.02, atol=0.02)
        for name in ("actor", "critic"):
            want, got = (agent.optimizers[name].first for agent in agents)
            assert got.dtype == getattr(agents[1], name).dtype == torch.float32
            assert 1e-4 < (got - want).norm() / want.norm() < 0.06
    torch.testing.assert_close(losses_of[1]["critic_loss"], losses_of[0]["critic_loss"], rtol=0.02, atol=0.02)


def test_padding_stays_zero_and_copies_are_independent():
    agent = agent_of()
    other = copy.deepcopy(agent_of())
    for batch, noise in batches(3):
        agent.noise = lambda *shape, noise=noise: noise
        sac_update(agent, batch)
    used = torch.zeros_like(agent.actor[0])
    for w, b in agent.actor_shape.layers(used):
        w.fill_(1)
        b.fill_(1)
    assert agent.actor[0][used == 0].abs().max() == 0
    assert not torch.equal(agent.actor, other.actor)
