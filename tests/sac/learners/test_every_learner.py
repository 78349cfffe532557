"""What holds for every learner: seeds do not disturb each other, a resumed run ends alike, a tiny run works."""

from dataclasses import replace

import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.checkpoint import state_tensors
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train

SHORT = {"pmeta": {"inner_steps": 7}, "reptile": {"inner_steps": 7}, "maml": {"inner_steps": 2}}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_seed_is_untouched_by_the_seeds_it_is_stacked_with(small, name):
    """Bit for bit: curves, losses, and every tensor that the learner has."""
    one, other = (small(name, seeds, SHORT.get(name), tasks=2, steps=80) for seeds in ((3, 4), (9, 4)))
    for rows in ("rows", "metrics"):
        a, b = ([r for r in getattr(run, rows) if r[0] == 4] for run in (one, other))
        assert a == b and a
    for key, x in state_tensors(one).items():
        if key.startswith(("actor", "critic", "target", "log_alpha", "replay", "extra")):
            changed, same = (torch.equal(a, b) for a, b in zip(x, state_tensors(other)[key], strict=True))
            assert same and (not changed or key.startswith("extra")), key  # counters are equal in all seeds


@pytest.mark.parametrize("name", LEARNERS)
def test_a_resumed_run_ends_with_the_numbers_of_an_undisturbed_one(small, name, tmp_path):
    whole = small(name, (0, 1), SHORT.get(name), tasks=2, steps=80)
    stop = {"folder": tmp_path, "callback": lambda run: run.step == 60}
    half = small(name, (0, 1), SHORT.get(name), tasks=2, steps=80, evaluations=4, how=stop)
    assert half.step == 60 and half.agent.updates == 20
    resumed = small(name, (0, 1), SHORT.get(name), tasks=2, steps=80, evaluations=4, how={"folder": tmp_path})
    want, got = state_tensors(whole), state_tensors(resumed)
    assert want.keys() == got.keys() and [k for k in want if not torch.equal(want[k], got[k])] == []
    assert set(whole.rows) < set(resumed.rows) and len(resumed.curve["step"].unique()) == 5


@pytest.mark.parametrize("name", LEARNERS)
def test_a_tiny_run_on_point_robots(name):
    settings = Settings(steps=60, hidden=(8,), batch_size=8, warm_up=30, evaluations=2, evaluation_episodes=1)
    run = train(family("point-robot", train=4), learner(name, **SHORT.get(name, {})), settings, [0])
    curve = run.curve.pivot_table("return", ["policy", "task"], "step")
    assert run.agent.updates == 30 and {"deployed"} <= set(curve.index.get_level_values(0)) <= {"deployed", "meta"}
    assert curve.shape[1] == 3 and (curve[0] != curve[60]).all() and curve.notna().all(axis=None)


@pytest.mark.parametrize("name", ["pmeta", "reptile", "distral", "maml", "pcgrad"])
def test_identical_tasks_and_data_stay_identical(small, name):
    run = small(name, (0,), SHORT.get(name), steps=60, warm_up=59)  # one update: slots differ by their data
    fresh = small(name, (0,), SHORT.get(name), steps=60, warm_up=59, evaluations=1)
    agent, made = fresh.agent, learner(name, **SHORT.get(name, {}))
    for x in (agent.actor, agent.critic, agent.target, agent.log_alpha, *agent.extra.values()):
        x.copy_(x[:, :1].expand_as(x).clone())
    for optimizer in agent.optimizers.values():
        optimizer.first.zero_(), optimizer.second.zero_()
    noise = agent.noise

    def same_for_all(*shape):  # the axis of tasks is that of length 3
        drawn = noise(*shape)
        axis = drawn.shape.index(3)
        return drawn.narrow(axis, 0, 1).expand_as(drawn).clone()

    agent.noise = same_for_all
    for _ in range(20):
        batch = run.replay.sample(16, agent.generators["replay"])
        made.update(agent, type(batch)(*(x[:, :1].expand_as(x) for x in batch)))
    for x in (*made.deployed(agent).values(), agent.critic, agent.log_alpha):
        # to rounding: on some processors the batched products of a slot depend on where it lies in memory
        torch.testing.assert_close(x, x[:, :1].expand_as(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name, options, text", [
    ("maml", {"inner_steps": -1}, "inner_steps of learner maml is -1"), ("maml", {"inner_step_size": 0.0}, "size"),
    ("maml", {"first_order": 1}, "first_order"), ("reptile", {"inner_steps": 0}, "inner_steps of learner reptile"),
    ("reptile", {"epsilon": 0.0}, "epsilon"), ("reptile", {"epsilon": 2.5}, "epsilon"),
    ("distral", {"kl_weight": -0.1}, "kl_weight"), ("distral", {"kl_wight": 0.1}, "Did you mean 'kl_weight'"),
    ("pcgrad", {"lam": 1.0}, "it has none"), ("joint-onehot", {"lam": 1.0}, "it has none"),
    ("joint_onehot", {}, "Did you mean 'joint-onehot'"),
])  # fmt: skip
def test_bad_options_are_named(name, options, text):
    with pytest.raises(UserError, match=text):
        learner(name, **options)


def test_a_whole_run_may_hold_a_single_task(small):
    """Nothing divides by the number of other tasks."""
    for name in LEARNERS:
        run = small(name, tasks=1, steps=60, options=SHORT.get(name), batch_size=4)
        assert run.curve["return"].notna().all() and torch.isfinite(run.agent.actor).all()


def test_updates_of_one_phase_do_the_same():
    assert [learner("reptile", inner_steps=3).phase(k) for k in range(6)] == [False, False, True] * 2
    assert learner("maml").phase(0) == learner("maml").phase(7) is not None


def test_settings_are_kept_apart_from_another_learners_checkpoint(tmp_path):
    """A folder of `joint` is not continued by `joint-onehot`."""
    settings = Settings(steps=20, hidden=(4,), batch_size=4, warm_up=15, evaluations=1, evaluation_episodes=1)
    made = replace(family("point-robot", train=2), horizon=5)
    train(made, learner("joint"), settings, [0], folder=tmp_path)
    with pytest.raises(UserError, match="another run"):
        train(made, learner("joint-onehot"), settings, [0], folder=tmp_path)
