"""The training loop: what runs when, the seed tree, what moves, what stops it."""

import dataclasses

import numpy as np
import psutil
import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.envs.classic import PendulumBatch
from pmeta_lib.envs.vector import TaskVectorEnv
from pmeta_lib.files import UserError
from pmeta_lib.sac.agent import STREAMS, generator, seed_sequence
from pmeta_lib.sac.checkpoint import state_tensors
from pmeta_lib.sac.evaluation import to_env
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.replay import split
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import Stopped, advance, start, train, update


def rows_of(run, seed):
    return [r for r in run.rows if r[0] == seed], [r for r in run.metrics if r[0] == seed]


def test_counts_steps_updates_and_evaluations(small):
    run = small(steps=100, warm_up=40, evaluations=4)
    assert (run.step, run.agent.updates, len(run.replay)) == (100, 60, 100)
    assert sorted(set(run.curve["step"])) == [0, 25, 50, 75, 100]
    assert list(run.curve.columns) == ["seed", "step", "policy", "task", "return", "return_std", "episodes"]
    assert len(run.curve) == 5 * 3 and len(run.losses) == 3 * 3  # losses from the first evaluation after an update
    assert small(steps=100, warm_up=40, updates_per_step=0.5).agent.updates == 30
    assert small(steps=100, warm_up=40, updates_per_step=3).agent.updates == 180


@pytest.mark.parametrize("envs, ratio", [(16, 0.125), (3, 0.125), (5, 0.7), (7, 2.5)])
def test_several_environments_count_in_transitions_and_lose_no_update(small, envs, ratio):
    run = small(steps=210, warm_up=41, envs_per_task=envs, updates_per_step=ratio, evaluations=4)
    end = -(-210 // envs) * envs  # the first whole step of all environments at or after the budget
    assert (run.step, len(run.replay), run.agent.updates) == (end, 210, int((end - 41) * ratio))
    assert sorted(set(run.curve["step"])) == [-(-s // envs) * envs for s in (0, 52, 105, 158, 210)]


def test_environments_of_one_task_are_single_ones_of_their_seeds():
    """Observations, rewards and endings of E = 3 against an environment each, fed with the stored actions."""
    made, seed, envs = dataclasses.replace(family("hopper-params", train=2), horizon=25), 5, 3
    run = start(made, learner("independent"), Settings(steps=300, warm_up=200, envs_per_task=envs), [seed])
    for _ in range(60):
        advance(run)
    rows = split(run.replay.rows[0, :, :180].unflatten(1, (60, envs)), made.observation_size, made.action_size)
    children = seed_sequence(seed, "environments").spawn(2 * envs)
    for b, child in enumerate(children):
        at = (b // envs, slice(None), b % envs)
        alone = TaskVectorEnv(made, made.train_tasks[[b // envs]], [child])
        observation, _ = alone.reset()
        for t, action in enumerate(rows.action[at]):
            assert np.array_equal(observation[0], rows.observation[at][t])
            observation, reward, ended, _, info = alone.step(to_env(made, action))
            assert np.array_equal(info["final_obs"][0], rows.next_observation[at][t])
            assert (reward[0], ended[0]) == (rows.reward[at][t], rows.terminated[at][t])


def test_warm_up_actions_are_uniform_and_later_ones_are_the_policys(small):
    run = small(steps=400, warm_up=300)
    action = run.replay.rows[0, :, :, 3]
    warm = action[:, :300].flatten()
    assert abs(warm.mean()) < 0.06 and abs(warm.var() - 1 / 3) < 0.04
    counts = np.histogram(warm, bins=8, range=(-1, 1))[0]
    assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize("changes", [{}, {"envs_per_task": 4}])
def test_changing_one_seed_leaves_the_others_untouched(small, changes):
    """Bit for bit: neither the data nor the networks of a seed depend on which seeds it is stacked with."""
    base = small(seeds=(3, 4, 5), **changes)
    for seeds in ((9, 4, 5), (3, 4, 9)):
        other = small(seeds=seeds, **changes)
        for seed in set(seeds) - {9}:
            assert rows_of(base, seed) == rows_of(other, seed) and rows_of(base, seed)[0]
        changed = seeds.index(9)
        for name, x in state_tensors(base).items():
            if name.startswith(("actor", "critic", "target", "log_alpha", "replay", "observation")):
                same = [torch.equal(a, b) for a, b in zip(x, state_tensors(other)[name])]
                assert same == [k != changed for k in range(3)], name


def test_a_seed_in_a_stack_follows_its_single_run(small):
    together, alone = small(seeds=(3, 4)), small(seeds=(4,))
    torch.testing.assert_close(together.agent.actor[1], alone.agent.actor[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.replay.rows[1, :, :90], alone.replay.rows[0, :, :90], rtol=1e-3, atol=1e-3)


def test_every_stream_of_a_seed_is_its_own():
    drawn = {(seed, s): torch.randn(4, generator=generator(seed, s)).tolist() for seed in (0, 1) for s in STREAMS}
    assert len({tuple(x) for x in drawn.values()}) == 2 * len(STREAMS)
    spawned = [seed_sequence(0, "environments").spawn(3), seed_sequence(0, "evaluation", 0).spawn(3)]
    assert len({tuple(s.generate_state(4)) for group in spawned for s in group}) == 6
    again = torch.randn(4, generator=generator(1, "noise")).tolist()
    assert again == drawn[1, "noise"]


def test_seeds_start_with_different_networks_and_environments_and_tasks_with_equal_networks(small):
    made = family("pendulum-params", train=3)
    run = start(made, learner("independent"), Settings(), [0, 1])
    assert torch.equal(run.agent.actor[0, 0], run.agent.actor[0, 2])
    assert not torch.equal(run.agent.actor[0, 0], run.agent.actor[1, 0])
    assert len({tuple(o) for o in run.observation.flatten(0, 2).tolist()}) == 6


def test_nothing_global_is_touched(small):
    def fingerprint():
        _kind, words, *rest = np.random.get_state()  # noqa: NPY002 (to see that nobody used it)
        return torch.get_rng_state().tolist(), words.tolist(), rest

    before = fingerprint()
    first = small("pmeta", options={"tasks_per_round": 2, "inner_steps": 5})
    assert fingerprint() == before
    torch.rand(7), np.random.random(3)  # noqa: NPY002 (somebody else uses the global generators)
    assert torch.equal(first.agent.actor, small("pmeta", options={"tasks_per_round": 2, "inner_steps": 5}).agent.actor)


@pytest.mark.parametrize("changes", [{}, {"envs_per_task": 4, "precision": "auto"}])
@pytest.mark.parametrize("name", LEARNERS)
def test_everything_a_learner_has_moves(small, name, changes):
    options = {"inner_steps": 5} if name == "pmeta" else {}
    before, after = (small(name, options=options, steps=s, **changes) for s in (41, 140))
    for key, x in state_tensors(before).items():
        if key.startswith("adam") or key in ("actor", "critic", "target", "log_alpha") or key.startswith("extra"):
            other = state_tensors(after)[key]
            assert not torch.equal(x, other), f"{key} of {name} did not move"
    for shape, x, y in ((before.agent.actor_shape, before.agent.actor, after.agent.actor),
                        (before.agent.critic_shape, before.agent.critic, after.agent.critic)):  # fmt: skip
        pairs = zip(shape.layers(x.reshape(-1, shape.size)), shape.layers(y.reshape(-1, shape.size)), strict=True)
        for layer, ((w, b), (w2, b2)) in enumerate(pairs):  # every layer of every slot
            assert ((w != w2).flatten(1).any(1)).all() and ((b != b2).flatten(1).any(1)).all(), (name, layer)


def test_time_limits_are_no_terminations():
    made = dataclasses.replace(family("point-robot", train=2), horizon=20)
    run = start(made, learner("independent"), Settings(steps=50, warm_up=40), [0])
    for _ in range(45):
        advance(run)
    rows = run.replay.rows[0, 0, :45]
    assert (rows[:, 5] == 0).all()  # the terminated flag
    ends = [t for t in range(44) if not torch.equal(rows[t, 6:], rows[t + 1, :2])]
    assert ends == [19, 39]  # there the next row starts anew, and this row holds the true last observation
    assert rows[19, 6:].abs().max() > 0


def test_callback_stops_early(small):
    run = small(steps=200, evaluations=4, how={"callback": lambda run: run.step >= 100})
    assert run.step == 100


def test_point_robots_learn(small):
    """Every task's own goal is found: from about -20 (20 steps, a metre away) to better than -9 on each."""
    made = family("point-robot", train=4)
    settings = Settings(steps=1400, hidden=(32, 32), batch_size=64, warm_up=200, learning_rate=3e-3, evaluations=1,
                        discount=0.9)  # fmt: skip
    curve = train(made, learner("independent"), settings, [0]).curve
    first, last = (curve[curve["step"] == s]["return"].to_numpy() for s in (0, 1400))
    assert (first < -12).all() and (last > -9).all(), (first, last)


@pytest.mark.slow
def test_pendulum_swings_up_on_every_seed():
    """-200 or better within 10,000 steps on 5 of 5 seeds, in one and the same evaluation; training stops there."""
    made = dataclasses.replace(family("pendulum-params"), train_tasks=np.array([[10.0, 1.0, 1.0]]))
    settings = Settings(steps=10_000, hidden=(64, 64), batch_size=64, learning_rate=1e-3, evaluations=20,
                        evaluation_episodes=10)  # fmt: skip

    def late(run):
        return [r[4] for r in run.rows if r[1] == run.step]

    run = train(made, learner("independent"), settings, range(5), callback=lambda run: min(late(run)) >= -200)
    assert (run.curve[run.curve["step"] == 0]["return"] < -800).all()
    assert len(late(run)) == 5 and min(late(run)) >= -200, late(run)


class Failing(PendulumBatch):
    """A pendulum whose second task's reward becomes NaN after 80 steps."""

    def step(self, actions):
        reward, terminated = super().step(actions)
        self.count = getattr(self, "count", 0) + 1
        if len(reward) == 3 and self.count > 80:
            reward[1] = np.nan
        return reward, terminated


def test_nan_from_an_environment_stops_with_the_step_and_the_last_good_checkpoint(small, tmp_path, monkeypatch):
    from pmeta_lib.envs import classic

    monkeypatch.setattr(classic, "PendulumBatch", Failing)
    with pytest.raises(Stopped, match=r"stopped at step 80: .*slots \[1\].*checkpoint is that of step (79|80) in"):
        small(how={"folder": tmp_path, "checkpoint_seconds": 0.0}, evaluation_episodes=2)
    with pytest.raises(Stopped, match="there is no checkpoint"):
        small(evaluation_episodes=2)


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("name", ["actor", "critic", "log_alpha"])
def test_nan_from_a_network_stops_and_is_never_checkpointed(small, tmp_path, name, precision):
    def spoil(run):
        if run.step == 70:
            getattr(run.agent, name)[0, 1] = float("nan")

    with pytest.raises(Stopped, match=r"stopped at step 7\d: .*checkpoint is that of step (69|70)"):
        small(how={"folder": tmp_path, "checkpoint_seconds": 0.0, "callback": spoil}, precision=precision)


@pytest.mark.parametrize("changes, text", [
    ({"steps": 0}, "steps is 0"), ({"steps": 1.5}, "steps is 1.5"), ({"hidden": ()}, "hidden"),
    ({"hidden": (16, 0)}, "hidden"), ({"hidden": 64}, "hidden"), ({"batch_size": -1}, "batch_size"),
    ({"learning_rate": float("nan")}, "learning_rate"), ({"learning_rate": float("inf")}, "learning_rate"),
    ({"discount": 1.1}, "discount"), ({"polyak": -0.1}, "polyak"), ({"warm_up": 10**6}, "warm_up"),
    ({"evaluations": 10**6}, "evaluations"), ({"updates_per_step": 0}, "updates_per_step"),
    ({"replay_capacity": -1}, "replay_capacity"), ({"target_entropy": "low"}, "target_entropy"),
    ({"steps": True}, "steps"), ({"initial_temperature": 0.0}, "initial_temperature"),
    ({"precision": "bfloat"}, "precision is 'bfloat'; it must be .*'bfloat16'"),
    ({"envs_per_task": 0}, "envs_per_task is 0"), ({"envs_per_task": 2.5}, "envs_per_task is 2.5"),
    ({"envs_per_task": 16, "replay_capacity": 15}, "envs_per_task is 16.* holds 15"),
    ({"steps": 100, "warm_up": 90, "envs_per_task": 16, "updates_per_step": 0.04}, "no update is ever reached"),
])  # fmt: skip
def test_impossible_settings_are_named(changes, text):
    with pytest.raises(UserError, match=text):
        Settings(**changes)


@pytest.mark.parametrize("changes, lower", [
    ({"steps": 10**10}, "replay_capacity"), ({"batch_size": 10**9}, "batch_size"),
    ({"hidden": (10**6, 10**6)}, "hidden"), ({"evaluation_episodes": 10**9}, "evaluation_episodes"),
])  # fmt: skip
def test_what_cannot_fit_into_memory_is_refused_before_it_is_allocated(small, changes, lower):
    before = psutil.Process().memory_info().rss
    with pytest.raises(UserError, match=f"GiB are free; lower .*{lower}"):
        small(**changes)
    assert psutil.Process().memory_info().rss - before < 2**28


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_be_given_once(small, seeds):
    with pytest.raises(UserError, match="seeds"):
        small(seeds=seeds)


def test_memory_does_not_grow():
    made = family("pendulum-params", train=3)
    settings = Settings(steps=10**5, hidden=(64, 64), batch_size=64, warm_up=10, replay_capacity=500)
    run = start(made, learner("pmeta"), settings, [0])

    def resident(count):
        for _ in range(count):
            advance(run)
            run.last = update(run) if run.step > 10 else {}
        return psutil.Process().memory_info().rss

    warm = resident(510)  # the ring is full by now
    assert resident(400) - warm < 4 * 2**20
