"""PEARL: its posterior, its gradients, where its context comes from, and what it infers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.files import UserError
from pmeta_lib.sac import losses
from pmeta_lib.sac.agent import act
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.learners.pearl import divergence, posterior
from pmeta_lib.sac.networks import fold, forward, gaussian, squash
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import advance, start, train


def make(made=None, seeds=(0, 1), steps=0, envs=1, **options):
    made = made or replace(family("pendulum-params", train=3), horizon=10)
    options = {"latent_size": 2, "context_batch": 8, "context_window": 25} | options
    settings = Settings(steps=500, hidden=(12, 12), batch_size=8, warm_up=15, envs_per_task=envs)
    run = start(made, learner("pearl", **options), settings, list(seeds))
    for _ in range(steps):
        advance(run)
    return run


def test_without_context_the_posterior_is_the_prior_exactly():
    run = make()
    mean, variance = run.learner.inferred(run.agent)
    assert (mean == 0).all() and (variance == 1).all() and mean.shape == (2, 3, 1, 2)
    deployed = run.learner.deployed(run.agent)
    assert torch.equal(deployed["deployed"], deployed["meta"])
    advance(run)
    assert (run.learner.inferred(run.agent)[1] < 1).all()  # one transition tells something


def test_the_posterior_is_the_normalized_product_of_its_factors():
    """By brute force: densities multiplied on a grid."""
    factors = torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counted = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    log = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    for mean, raw in factors[counted > 0]:
        log = log + torch.distributions.Normal(mean, torch.log1p(raw.exp()).sqrt()).log_prob(z)
    weight = (log - log.max()).exp()
    weight = weight / weight.sum()
    want_mean = (weight * z).sum()
    mean, variance = posterior(factors, counted)
    torch.testing.assert_close(mean[0], want_mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(variance[0], (weight * (z - want_mean) ** 2).sum(), rtol=1e-8, atol=1e-8)


def test_the_divergence_is_torchs():
    mean, variance = torch.tensor([0.3, -1.2]), torch.tensor([0.5, 2.0])
    normal = torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0)).sum()
    torch.testing.assert_close(divergence(mean, variance), want)


def test_the_order_of_the_context_does_not_matter_but_its_content_does():
    run = make(steps=25)
    mean, variance = run.learner.inferred(run.agent)
    rows = run.agent.extra["context"].squeeze(2)
    filled = int(run.agent.extra["seen"].min())
    assert filled == 15
    rows[:, :, :filled] = rows[:, :, torch.randperm(filled, generator=torch.Generator().manual_seed(1))].clone()
    for got, want in zip(run.learner.inferred(run.agent), (mean, variance)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    rows[0, 1, 3] += 1.0
    moved = (run.learner.inferred(run.agent)[0] - mean).abs().amax((2, 3)) > 1e-5
    assert moved.tolist() == [[False, True, False], [False, False, False]]
    mean, _ = run.learner.inferred(run.agent)
    rows[:, :, filled:] = 7.0  # what is not filled yet does not count
    assert torch.equal(run.learner.inferred(run.agent)[0], mean)


def test_the_context_is_the_exploration_and_nothing_else():
    """Episodes of ten steps: the first, third … act on a z of the prior and are the context; the others are not."""
    run = make(context_window=15)
    acted = []
    for _ in range(45):
        acted.append(run.agent.extra["z"].squeeze(2).clone())
        advance(run)
    z = torch.stack(acted)  # (t, S, N, k)
    assert all(torch.equal(z[t], z[t - t % 10]) for t in range(45))  # constant within an episode
    assert len({tuple(z[t, s, i].tolist()) for t in range(0, 45, 10) for s in range(2) for i in range(3)}) == 30
    stored = run.replay.rows[:, :, :45]
    stored = torch.cat((stored[..., :5], stored[..., 6:]), -1)  # without the flag of termination
    explored = torch.cat((stored[:, :, :10], stored[:, :, 20:30], stored[:, :, 40:45]), 2)
    assert (run.agent.extra["seen"] == 25).all()
    ring = run.agent.extra["context"].squeeze(2)  # the latest 15 of 25: 10 … 24, the first of them at 10
    assert torch.equal(torch.cat((ring[:, :, 10:], ring[:, :, :10]), 2), explored[:, :, 10:])


def test_z_is_the_priors_on_exploration_and_the_posteriors_after_it():
    run = make(seeds=(0,), context_window=400)
    noise = torch.tensor([0.7, -1.1]).expand(1, 3, 1, 2)
    draw = run.agent.noise
    run.agent.noise = lambda *shape: noise if shape == (3, 1, 2) else draw(*shape)
    for episode in range(4):
        for _ in range(10):
            advance(run)
        mean, variance = run.learner.inferred(run.agent)
        want = noise if episode % 2 else mean + variance.sqrt() * noise
        torch.testing.assert_close(run.agent.extra["z"], want)


def test_an_episode_that_ends_early_changes_its_own_slot_only():
    run = make(steps=3)
    before = {name: run.agent.extra[name].clone() for name in ("z", "explores")}
    ended = np.zeros(6, bool)
    ended[4] = True  # task 1 of the second seed
    run.learner.stepped(run.agent, run.replay, ended)
    for name, x in before.items():
        changed = (run.agent.extra[name] != x).view(2, 3, -1).any(-1)
        assert changed.tolist() == [[False, False, False], [False, True, False]], name
    run.learner.stepped(run.agent, run.replay, np.zeros(6, bool))
    assert run.agent.extra["seen"].squeeze(2).tolist() == [[5, 5, 5], [5, 4, 5]]


def test_every_environment_of_a_task_collects_and_infers_by_itself():
    """E = 3 hoppers, which fall at different times: each one's context is its own exploration, its z the prior's or
    the posterior's of that, and an update draws from all of them alike."""
    made = replace(family("hopper-params", train=2), horizon=20)
    run = make(made, seeds=(0,), envs=3, context_window=1000, context_batch=4000)
    explored = torch.zeros(0, *run.agent.extra["seen"].shape, dtype=torch.bool)
    for _ in range(70):
        explored = torch.cat((explored, run.agent.extra["explores"][None] > 0))
        advance(run)
    seen = run.agent.extra["seen"]
    assert torch.equal(seen, explored.sum(0).double()) and len(set(seen.flatten().tolist())) > 2
    stored = run.replay.rows[0, :, :210].unflatten(1, (70, 3))
    flag = made.observation_size + made.action_size + 1
    stored = torch.cat((stored[..., :flag], stored[..., flag + 1 :]), -1)
    for i in range(2):
        for e in range(3):
            own = stored[i, explored[:, 0, i, e], e]
            assert torch.equal(run.agent.extra["context"][0, i, e, : len(own)], own)
    mean, _ = run.learner.inferred(run.agent)
    assert len({tuple(m) for m in mean.flatten(0, 2).tolist()}) == 6
    assert torch.equal(run.learner.deployed(run.agent)["deployed"], fold(
        run.agent.actor_shape, run.agent.actor, made.observation_size, mean[:, :, 0]))  # fmt: skip
    drawn, counted = run.learner._draw(run.agent)
    assert counted.all()
    for i in range(2):  # one environment in three each, whatever it has seen
        of = [(drawn[0, i][:, None] == run.agent.extra["context"][0, i, e, : int(n)]).all(-1).any(1).double().mean()
              for e, n in enumerate(seen[0, i])]  # fmt: skip
        torch.testing.assert_close(torch.stack(of), torch.full((3,), 1 / 3).double(), atol=0.04, rtol=0)


def at_meta_test(run, steps, name="context", **options):
    way, initial = run.learner.adapt_from(run.agent, 3)[name]
    way = replace(way.on(run.family), **options)
    test = start(run.family, way, run.settings, [0, 1], initial=initial)
    acted = []
    for _ in range(steps):
        acted.append(test.agent.extra["z"].clone())
        advance(test)
    return test, torch.stack(acted)


def test_at_meta_test_the_posterior_is_that_of_the_exploration_and_rests():
    """Episodes of ten steps, three of exploration: z by hand from the stored transitions, by a posterior of our own."""
    run = make()
    test, z = at_meta_test(run, 55, explorations=3, context_window=30)
    extra, kept = test.agent.extra, test.replay.rows[:, :, :30]
    assert all(torch.equal(z[t], z[t - t % 10]) for t in range(55))  # one z an episode
    assert (extra["seen"] == 30).all() and (extra["explores"] == 0).all() and (extra["episodes"] == 5).all()
    rows = torch.cat((kept[..., :5], kept[..., 6:]), -1)
    assert torch.equal(extra["context"][:, :, 0, :30], rows)  # the first three episodes and nothing since
    factors = forward(test.learner._encoder(test.agent), extra["encoder"].view(2, -1), rows.flatten(1, 2))
    want = posterior(factors.view(2, 3, 30, -1), torch.ones(2, 3, 30))
    for got, by_hand in zip(test.learner.inferred(test.agent), want):
        torch.testing.assert_close(got[:, :, 0], by_hand)


def test_at_meta_test_z_is_drawn_from_the_prior_and_then_from_the_posterior():
    """By its moments, over many episodes of one step: the prior's while n lasts, then the frozen posterior's."""
    run = make(replace(family("pendulum-params", train=3), horizon=1))
    _, z = at_meta_test(run, 400, explorations=400)
    assert z.mean((0, 3)).abs().max() < 0.2 and (z.std((0, 3)) - 1).abs().max() < 0.15
    test, z = at_meta_test(run, 400, explorations=2)
    mean, variance = test.learner.inferred(test.agent)
    assert (variance < 0.9).all()  # two transitions have told something
    torch.testing.assert_close(z[2:].mean(0), mean, rtol=0, atol=0.15)
    torch.testing.assert_close(z[2:].std(0), variance.sqrt(), rtol=0.15, atol=0)


def test_at_meta_test_it_acts_by_its_mode_and_nothing_is_trained():
    run = make()
    test, z = at_meta_test(run, 25)
    before = [x.clone() for x in (test.agent.actor, test.agent.critic, test.agent.extra["encoder"])]
    assert test.learner.update(test.agent, test.replay.sample(4, test.agent.generators["replay"])) == {}
    after = (test.agent.actor, test.agent.critic, test.agent.extra["encoder"])
    assert all(torch.equal(a, b) for a, b in zip(before, after)) and test.agent.updates == 1
    assert torch.equal(before[2], run.agent.extra["encoder"])  # brought along
    for t in (0, 24):
        row = test.replay.rows[:, :, t : t + 1]
        mode = act(run.agent.actor_shape, run.agent.actor, torch.cat((row[..., :3], z[t]), -1))
        torch.testing.assert_close(row[..., 3:4], mode)
    tuned, _ = at_meta_test(run, 25, "context + sac")
    tuned.learner.update(tuned.agent, tuned.replay.sample(4, tuned.agent.generators["replay"]))
    assert (tuned.agent.actor != run.agent.actor).any() and torch.equal(tuned.agent.extra["encoder"], before[2])


def test_the_number_of_exploration_episodes_is_the_familys():
    way = make().learner.adapt_from(make().agent, 3)["context"][0]
    for name, n in (("point-robot", 5), ("half-cheetah-vel", 2), ("lunar-lander-params", 2)):
        on = way.on(family(name))
        assert (on.explorations, on.context_window) == (n, n * family(name).horizon)


def test_gradients_equal_autograd_of_the_losses():
    """The encoder's from critic loss and KL, the critics' and the actor's at a z that is constant to them."""
    run = make(steps=25, kl_weight=0.3)
    agent, extra, made = run.agent, run.agent.extra, run.learner
    extra["context"].copy_(extra["context"][..., :1, :].expand_as(extra["context"]))  # whatever is drawn, it is this
    batch = run.replay.sample(8, agent.generators["replay"])
    g = torch.Generator().manual_seed(2)
    eps, noise = torch.randn(2, 3, 2, generator=g), torch.randn(2, 2, 3, 8, 1, generator=g)
    agent.noise = lambda *shape: eps if shape == (3, 2) else noise
    encoder, actor, critic = (x.clone().requires_grad_() for x in (extra["encoder"], agent.actor, agent.critic))
    target, alpha = agent.target.clone(), agent.log_alpha.exp().view(2, 1)
    made.update(agent, batch)

    shape = made._encoder(agent)
    factors = forward(shape, encoder.view(2, -1), extra["context"][:, :, 0, :8].flatten(1, 2)).view(2, 3, 8, 4)
    mean, variance = posterior(factors, torch.ones(2, 3, 8))
    z = mean + variance.sqrt() * eps

    def told(x, z):
        return torch.cat((x, z.unsqueeze(2).expand(2, 3, 8, 2)), -1).view(2, 24, -1)

    def q_of(critics, x, a):
        pair = torch.cat((x, a), -1).repeat_interleave(2, 0)
        return forward(agent.critic_shape, critics.view(4, -1), pair).view(2, 2, 24)

    fixed, e = z.detach(), noise.view(2, 2, 24, 1)
    here, there = told(batch.observation, fixed), told(batch.next_observation, fixed)
    action, log_prob = squash(*gaussian(forward(agent.actor_shape, actor.view(2, -1), here)), e[:, 0])
    with torch.no_grad():
        next_action, next_log_prob = squash(*gaussian(forward(agent.actor_shape, actor.view(2, -1), there)), e[:, 1])
        y = losses.td_target(batch.reward.view(2, 24), batch.terminated.view(2, 24), q_of(target, there, next_action),
                             next_log_prob, alpha, agent.discount)  # fmt: skip
    critic_loss = losses.critic_loss(q_of(critic, told(batch.observation, z), batch.action.view(2, 24, 1)), y).sum()
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, variance.sqrt()),
                                           torch.distributions.Normal(0.0, 1.0)).sum(-1).mean(1).sum()  # fmt: skip
    of_encoder, of_critic = torch.autograd.grad(critic_loss + 0.3 * kl, (encoder, critic))
    moved = agent.critic.detach()  # the actor's loss is taken at the critics after their step
    (of_actor,) = torch.autograd.grad(losses.actor_loss(q_of(moved, here, action), log_prob, alpha).sum(), actor)
    for name, want in (("encoder", of_encoder), ("critic", of_critic), ("actor", of_actor)):
        got = agent.optimizers[name].first / 0.1  # Adam's first moment after one step
        torch.testing.assert_close(got, want, rtol=2e-4, atol=1e-5)
        assert want.abs().max() > 1e-3, name


def test_folding_a_context_in_changes_nothing_but_the_need_to_append_it():
    run = make(steps=25)
    agent = run.agent
    mean, _ = run.learner.inferred(agent)
    x = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    told = torch.cat((x, mean.expand(2, 3, 4, 2)), -1)
    want = act(agent.actor_shape, agent.actor, told.flatten(1, 2))
    got = run.mode(run.learner.deployed(agent)["deployed"], x.flatten(1, 2))
    torch.testing.assert_close(got, want)
    assert not torch.allclose(run.mode(run.learner.deployed(agent)["meta"], x.flatten(1, 2)), want)
    assert not torch.equal(agent.extra["z"], mean)  # what `inputs` appends is ignored by it
    folded = fold(agent.actor_shape, agent.actor, 3, mean.squeeze(2))
    assert torch.equal(folded, run.learner.deployed(agent)["deployed"])


def separation(run):
    """(S,): how far the two tasks' posteriors lie apart, in the sum of their standard deviations, at best over z."""
    mean, variance = (x.squeeze(2) for x in run.learner.inferred(run.agent))
    std = variance.sqrt()
    return ((mean[:, 0] - mean[:, 1]).abs() / (std[:, 0] + std[:, 1])).amax(-1)


def test_the_inferred_task_separates_the_directions_of_half_cheetah():
    """From exploration alone, which is the same policy on both tasks; not before training, nor where the KL forbids."""
    made = replace(family("half-cheetah-dir"), horizon=50)
    settings = Settings(steps=1000, hidden=(32, 32), batch_size=32, warm_up=200, evaluations=1, evaluation_episodes=1,
                        learning_rate=2e-3)  # fmt: skip
    apart = {}
    for weight in (0.001, 100.0):
        run = train(made, learner("pearl", kl_weight=weight, latent_size=2), settings, [0, 1])
        apart[weight] = separation(run)
    untrained = separation(make(made, steps=200, latent_size=2, context_window=400))
    assert (apart[0.001] > 3).all() and (apart[100.0] < 1).all() and (untrained < 1).all(), (apart, untrained)


@pytest.mark.parametrize("options, text", [
    ({"latent_size": 0}, "latent_size of learner pearl is 0"), ({"context_batch": 0}, "context_batch"),
    ({"context_window": -5}, "context_window"), ({"kl_weight": -1.0}, "kl_weight"),
    ({"kl_wait": 0.1}, "Did you mean 'kl_weight'"),
])  # fmt: skip
def test_bad_options_are_named(options, text):
    with pytest.raises(UserError, match=text):
        learner("pearl", **options)


def test_a_context_that_cannot_fit_is_refused():
    with pytest.raises(UserError, match="GiB are free; lower option context_window"):
        make(context_window=10**11)
