"""CUDA graphs: eager and graphed updates agree, randomness is fresh, learning rate and temperature really change.

Those need a device. What recording one relies on is held on the CPU as well: an update asks no tensor for its value,
and works on tensors that stay where they are.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pmeta_lib.envs import family
from pmeta_lib.sac.checkpoint import state_tensors
from pmeta_lib.sac.graphs import Graphed
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.networks import Shape, backward, forward_saved, initialize
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import advance, start, train, update

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS = Settings(steps=200, hidden=(32, 32), batch_size=32, warm_up=50, evaluations=2, evaluation_episodes=1)


class NoAnswers(TorchDispatchMode):
    """Refuses what would make a GPU wait, and so cannot be recorded: `.item()`, branches on tensors, masked picks."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LEARNERS)
def test_an_update_can_be_recorded(name):
    """Of every learner that says so (`phase`), through a whole round of K = 3."""
    options = {"inner_steps": 3} if name == "pmeta" else {}
    run = prepared(name, device="cpu", **options)
    assert run.learner.phase(0) is not None
    update(run)  # what is made at the first update exists now
    where = {k: x.data_ptr() for k, x in state_tensors(run).items() if not k.startswith(("env", "last", "generator"))}
    with NoAnswers():
        for _ in range(4):
            run.last = update(run)
    now = state_tensors(run)
    assert [k for k, at in where.items() if now[k].data_ptr() != at] == []


def prepared(name="pmeta", device="cuda", **options):
    made = replace(family("pendulum-params", train=3), horizon=30)
    run = start(made, learner(name, **options), SETTINGS, [0, 1], device=device)
    for _ in range(50):
        advance(run)
    return run


@cuda
@pytest.mark.parametrize("name, options", [("pmeta", {"inner_steps": 3}), *((name, {}) for name in LEARNERS)])
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


@cuda
@pytest.mark.parametrize("width, n", [(5, 7), (24, 64)])
def test_a_devices_own_kernels_compute_what_the_cpu_does(width, n):
    shape = Shape((width, 32, 32, 1))
    flat = initialize(shape, 3, torch.Generator().manual_seed(0))
    x = torch.randn(3, n, width, generator=torch.Generator().manual_seed(1))
    found = {}
    for device in ("cpu", "cuda"):
        layers, gradient = shape.layers(flat.to(device)), torch.zeros(3, shape.size, device=device)
        q, saved = forward_saved(layers, x.to(device))
        of_input = backward(layers, saved, torch.ones_like(q), shape.layers(gradient), slice(None))
        found[device] = [t.cpu() for t in (q, gradient, of_input)]
    for want, got in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-2, atol=5e-3 * float(want.abs().max()))  # TF32: ten bits


@cuda
def test_randomness_is_fresh_on_every_replay():
    run, one = prepared("independent"), Graphed(update)
    for optimizer in run.agent.optimizers.values():
        optimizer.learning_rate.zero_()  # nothing moves, so that only batches and noise can change the losses
    seen = [one(run)["actor_loss"].clone() for _ in range(20)]
    assert len({tuple(x.tolist()) for x in seen}) == 20


@cuda
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


@cuda
def test_a_whole_run_on_the_device(tmp_path):
    made = replace(family("pendulum-params", train=3), horizon=30)
    run = train(made, learner("pmeta", inner_steps=5), SETTINGS, [0], device="cuda", folder=tmp_path)
    assert run.agent.actor.is_cuda and run.curve["return"].notna().all() and run.agent.updates == 150
