"""TaskVectorEnv: independent slots, exact resume, autoreset, threads, and clear errors."""

import json
import warnings

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from pmeta_lib.envs import FAMILIES, TaskVectorEnv, family
from pmeta_lib.envs.vector import pack, unpack
from pmeta_lib.files import UserError

ONE_OF_EACH = ["point-robot", "pendulum-flip", "lunar-lander-params", "half-cheetah-vel", "hopper-params"]
ROBOTS = ["half-cheetah-vel", "ant-dir", "humanoid-dir", "walker2d-params"]


def drive(env, steps, seed=0, start=0):
    """Everything that `steps` random steps return, as a list of arrays."""
    f, out = env.family, []
    rng = np.random.default_rng(seed)
    for t in range(start + steps):
        actions = rng.uniform(f.action_low, f.action_high, (env.num_envs, f.action_size))
        if t >= start:
            observation, reward, terminated, truncated, info = env.step(actions)
            out.append([observation, reward, terminated, truncated, info["final_obs"]])
    return [np.stack(x) for x in zip(*out)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_resume_continues_to_the_bit(name, tmp_path):
    f = family(name)
    tasks = f.train_tasks[:2]
    steps = 25 if f.suite == "mujoco" else 90
    env = TaskVectorEnv(f, tasks, [5, 6])
    env.reset()
    drive(env, steps)
    state, now = env.state_dict(), env.observations
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in state.values())
    np.savez(tmp_path / "state.npz", **state)  # what a checkpoint does
    expected = drive(env, 60, start=steps)
    fresh = TaskVectorEnv(f, tasks, [0, 1])  # never reset, other seeds: the state brings everything
    with np.load(tmp_path / "state.npz") as stored:
        fresh.load_state_dict(dict(stored))
    assert np.array_equal(fresh.observations, now)
    assert same(drive(fresh, 60, start=steps), expected)
    env.load_state_dict(state)  # and backwards, in place
    assert same(drive(env, 60, start=steps), expected)
    assert same(env.reset()[:1], fresh.reset()[:1])  # the generators agree too


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_slots_are_independent(name):
    f = family(name)
    tasks = np.resize(f.train_tasks, (4, f.train_tasks.shape[1]))
    runs = {}
    for key, rows, seeds in (
        ("base", [0, 1, 2, 3], [0, 1, 2, 3]),
        ("again", [0, 1, 2, 3], [0, 1, 2, 3]),
        ("seed 2 changed", [0, 1, 2, 3], [0, 1, 9, 3]),
        ("task 2 changed", [0, 1, 1, 3], [0, 1, 2, 3]),
    ):
        env = TaskVectorEnv(f, tasks[rows], seeds)
        first = env.reset()[0]
        runs[key] = [first, *drive(env, 230 if f.suite == "gym" else 60)]
    assert same(runs["base"], runs["again"])
    for key in ("seed 2 changed", "task 2 changed"):
        for base, changed in zip(runs["base"], runs[key]):
            axis = 0 if base is runs["base"][0] else 1
            assert np.array_equal(np.delete(base, 2, axis), np.delete(changed, 2, axis))
    if name != "point-robot":  # which always starts at the origin
        assert not np.array_equal(runs["base"][0][2], runs["seed 2 changed"][0][2])
    assert not np.array_equal(runs["base"][2][:, 2], runs["task 2 changed"][2][:, 2])
    alone = TaskVectorEnv(f, tasks[1:2], [1])  # B = 1 gives what slot 1 of four gave
    assert np.array_equal(alone.reset()[0][0], runs["base"][0][1])
    rng = np.random.default_rng(0)
    for t in range(50):
        actions = rng.uniform(f.action_low, f.action_high, (4, f.action_size))
        assert np.array_equal(alone.step(actions[1:2])[0][0], runs["base"][1][t, 1])


@pytest.mark.parametrize("name", ROBOTS)
def test_threads_do_not_change_the_numbers(name):
    f = family(name)
    tasks = np.resize(f.train_tasks, (5, f.train_tasks.shape[1]))
    runs = []
    for threads in (1, 2, 8):
        env = TaskVectorEnv(f, tasks, range(5), threads=threads)
        env.reset()
        runs.append(drive(env, 40))
        env.close()
        env.close()  # closing twice is fine
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


def test_seed_sequences_give_independent_reproducible_streams():
    f = family("pendulum-params")
    first = [TaskVectorEnv(f, f.train_tasks, np.random.SeedSequence(s).spawn(10)).reset()[0] for s in (0, 0, 1)]
    assert np.array_equal(first[0], first[1]) and not np.array_equal(first[0], first[2])
    assert len(np.unique(first[0][:, 2])) == 10


def test_same_step_autoreset():
    f = family("hopper-params")
    env = TaskVectorEnv(f, f.train_tasks, range(10), dtype=np.float64)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset()
    observation, _, terminated, truncated, final = drive(env, 150)
    ended = terminated | truncated
    assert terminated.sum() > 10
    assert np.array_equal(observation[~ended], final[~ended])
    assert (np.abs(observation[ended] - final[ended]).max(1) > 1e-3).all()
    assert np.abs(observation[ended][:, 0] - 1.25).max() < 0.006  # upright again: a first observation
    assert (final[terminated][:, 0] < 1.25).any()  # fallen: the true last observation


def test_episodes_are_truncated_at_the_presets_horizon():
    for preset, horizon in (("modern", 200), ("promp2018", 100)):
        f = family("half-cheetah-dir", preset)
        env = TaskVectorEnv(f, f.train_tasks, [0, 1])
        env.reset()
        truncated = drive(env, 250)[3]
        assert np.flatnonzero(truncated.all(1)).tolist() == list(range(horizon - 1, 250, horizon))


def test_spaces_dtypes_and_reseeding():
    f = family("ant-dir")
    env = TaskVectorEnv(f, f.train_tasks, [0, 1])
    observation, info = env.reset()
    assert observation.shape == (2, 105) and observation.dtype == np.float32 and info == {}
    assert observation in env.observation_space and env.action_space.shape == (2, 8)
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert reward.dtype == np.float32 and terminated.dtype == truncated.dtype == bool
    assert set(info) == {"final_obs", "_final_obs"}  # the task is not among them
    assert np.array_equal(env.reset(seed=5)[0], env.reset(seed=[5, 6])[0])
    assert not np.array_equal(env.reset()[0], env.reset(seed=5)[0])


def test_returned_arrays_are_the_callers():
    f = family("half-cheetah-dir")
    env, twin = (TaskVectorEnv(f, f.train_tasks, [0, 1]) for _ in range(2))
    for e in (env, twin):
        e.reset()
    kept = env.step(np.zeros((2, 6)))
    copies = [kept[0].copy(), kept[4]["final_obs"].copy()]
    env.step(np.ones((2, 6)))
    assert np.array_equal(kept[0], copies[0]) and np.array_equal(kept[4]["final_obs"], copies[1])
    twin.step(np.zeros((2, 6)))[0][:] = 99.0
    twin.step(np.ones((2, 6)))
    assert np.array_equal(env.observations, twin.observations)


def test_global_random_state_is_not_touched():
    before = np.random.get_state()  # noqa: NPY002 (it is what is being guarded)
    for name in ONE_OF_EACH:
        f = family(name)
        env = TaskVectorEnv(f, f.train_tasks[:2], [0, 1])
        env.reset()
        drive(env, 210)
    after = np.random.get_state()  # noqa: NPY002
    assert before[2] == after[2] and np.array_equal(before[1], after[1])


@given(st.integers(0, 2**64), st.integers(0, 50), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_packed_generators_continue(seed, draws, halves):
    a = np.random.Generator(np.random.PCG64(seed))
    a.random(draws)
    a.integers(0, 100, halves, dtype=np.uint32)  # leaves half a draw in store when odd
    words = np.array(json.loads(json.dumps(pack(a).tolist())), np.uint64)
    b = np.random.Generator(np.random.PCG64(0))
    unpack(b, words)
    assert np.array_equal(a.integers(0, 100, 7, dtype=np.uint32), b.integers(0, 100, 7, dtype=np.uint32))
    assert np.array_equal(a.random(5), b.random(5))


def make(name="half-cheetah-dir", tasks=None, seeds=(0, 1), **options):
    f = family(name)
    return TaskVectorEnv(f, f.train_tasks if tasks is None else tasks, seeds, **options)


def stepped(actions, reset=True):
    env = make()
    if reset:
        env.reset()
    return env.step(actions)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(tasks=np.zeros((2, 2))), r"tasks of half-cheetah-dir: shape \(2, 2\); needs"),
        (lambda: make(seeds=[0]), "seeds: 1 given for 2 task rows"),
        (lambda: make(seeds=[0, -1]), "seeds: slot 1: -1"),
        (lambda: make(seeds=[0, 0.5]), "seeds: slot 1: 0.5"),
        (lambda: make(threads=0), "threads = 0"),
        (lambda: stepped(np.zeros((2, 5))), r"actions: shape \(2, 5\); this environment needs \(2, 6\)"),
        (lambda: stepped(np.array([[0.0] * 6, [np.nan] * 6])), r"actions: not finite in slots \[1\]"),
        (lambda: stepped(np.zeros((2, 6)), reset=False), "before reset"),
        (lambda: make(tasks=[[1], [1]]).load_state_dict(make().state_dict()), "other tasks"),
        (lambda: make("pendulum-flip").load_state_dict(make().state_dict()), "is of half-cheetah-dir"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_failed_step_changes_nothing():
    env = make()
    env.reset()
    before = env.state_dict()
    with pytest.raises(UserError):
        env.step(np.full((2, 6), np.inf))
    after = env.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_diverging_physics_is_reported_with_its_slot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its own log where it stands
    env = make("half-cheetah-vel", seeds=range(10))
    env.reset()
    env.batch.data[4].qvel[3] = np.nan
    with pytest.raises(FloatingPointError, match=r"half-cheetah-vel diverged in slots \[4\]"):
        env.step(np.zeros((10, 6)))


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FAMILIES:
            f = family(name)
            env = TaskVectorEnv(f, f.train_tasks[:2], [0, 1])
            env.reset()
            drive(env, 3)
            env.close()
