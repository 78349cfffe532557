"""CUDA graphs: eager and graphed updates agree, randomness is fresh, learning rate and temperature really change."""

from dataclasses import replace

import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.sac.graphs import Graphed
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.training import Settings, advance, start, train, update

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS = Settings(steps=200, hidden=(32, 32), batch_size=32, warm_up=50, evaluations=2, evaluation_episodes=1)


def prepared(name="pmeta", **options):
    made = replace(family("pendulum-params", train=3), horizon=30)
    run = start(made, learner(name, **options), SETTINGS, [0, 1], device="cuda")
    for _ in range(50):
        advance(run)
    return run


@pytest.mark.parametrize("name, options", [("pmeta", {"inner_steps": 3}), ("independent", {}), ("joint", {})])
def test_graphed_updates_equal_eager_ones(name, options):
    eager, graphed = prepared(name, **options), prepared(name, **options)
    one = Graphed(update)
    for _ in range(40):
        want, got = update(eager), one(graphed)
        torch.testing.assert_close(got["critic_loss"], want["critic_loss"], rtol=1e-3, atol=1e-4)
    assert one.graphs and eager.agent.updates == graphed.agent.updates == 40
    for x in ("actor", "critic", "target", "log_alpha"):
        torch.testing.assert_close(getattr(graphed.agent, x), getattr(eager.agent, x), rtol=1e-3, atol=1e-4)
    for stream in ("noise", "replay"):  # the streams stand where eager updates would have left them
        for a, b in zip(eager.agent.generators[stream], graphed.agent.generators[stream], strict=True):
            assert torch.equal(torch.randn(8, generator=a, device="cuda"), torch.randn(8, generator=b, device="cuda"))


def test_randomness_is_fresh_on_every_replay():
    run, one = prepared("independent"), Graphed(update)
    for optimizer in run.agent.optimizers.values():
        optimizer.learning_rate.zero_()  # nothing moves, so that only batches and noise can change the losses
    seen = [one(run)["actor_loss"].clone() for _ in range(20)]
    assert len({tuple(x.tolist()) for x in seen}) == 20


def test_learning_rate_and_temperature_reach_the_recorded_update():
    run, one = prepared("independent"), Graphed(update)
    for _ in range(10):
        one(run)
    run.agent.optimizers["actor"].learning_rate.zero_()
    before, alpha = run.agent.actor.clone(), run.agent.log_alpha.clone()
    one(run)
    assert torch.equal(run.agent.actor, before) and not torch.equal(run.agent.log_alpha, alpha)
    run.agent.optimizers["actor"].learning_rate.fill_(1e-2)
    one(run)
    assert 1e-3 < (run.agent.actor - before).abs().max() < 0.1
    low = one(run)["critic_loss"].clone()
    run.agent.log_alpha.add_(5.0)
    assert (one(run)["critic_loss"] > low + 1).all()


def test_a_whole_run_on_the_device(tmp_path):
    made = replace(family("pendulum-params", train=3), horizon=30)
    run = train(made, learner("pmeta", inner_steps=5), SETTINGS, [0], device="cuda", folder=tmp_path)
    assert run.agent.actor.is_cuda and run.curve["return"].notna().all() and run.agent.updates == 150
