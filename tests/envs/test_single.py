"""The registered environments: gymnasium's checker, equality with the stacked ones, SB3 unchanged."""

import copy
import pickle
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pmeta_lib.envs import FAMILIES, TaskVectorEnv, family
from pmeta_lib.files import UserError

UNIQUE = [n for n in FAMILIES if n != "ant-dir-graded"]  # which shares its id with ant-dir


def advice(env) -> set[str]:
    """The warnings of gymnasium's checker."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    return {str(w.message) for w in caught}


@pytest.mark.parametrize("name", UNIQUE)
def test_check_env_has_no_more_to_say_than_on_gymnasiums_own(name):
    """Unbounded observations (MuJoCo) and a torque of 2 (Pendulum) are gymnasium's own spaces."""
    f = family(name)
    env = gymnasium.make(f.env_id, task=f.train_tasks[-1])
    parent = set()
    if name != "point-robot":
        options = {"continuous": True} if name == "lunar-lander-params" else {}
        parent = advice(gymnasium.make(f.versions["base"], **options))
    assert advice(env) <= parent
    assert env.observation_space.shape == (f.observation_size,)
    assert np.allclose(env.action_space.low, f.action_low) and np.allclose(env.action_space.high, f.action_high)


@pytest.mark.parametrize("name", FAMILIES)
def test_single_equals_stacked(name):
    f = family(name)
    row = len(f.train_tasks) - 1
    stacked = TaskVectorEnv(f, f.train_tasks, range(len(f.train_tasks)), dtype=np.float64)
    env = gymnasium.make(f.env_id, task=f.train_tasks[row])
    rng = np.random.default_rng(0)
    observation, expected = stacked.reset()[0], env.reset(seed=row)[0]
    for _ in range(f.horizon + 10 if f.suite == "gym" else 40):
        # single NumPy environments return float32 observations, as gymnasium's Pendulum does
        assert np.allclose(observation[row], expected, rtol=0, atol=1e-10 if f.suite == "mujoco" else 1e-6)
        actions = rng.uniform(f.action_low, f.action_high, (len(f.train_tasks), f.action_size))
        actions = actions.astype(np.float32)
        observation, reward, terminated, truncated, _ = stacked.step(actions)
        expected, value, ended, late, info = env.step(actions[row])
        assert isinstance(value, float) and isinstance(ended, bool) and isinstance(late, bool)
        assert reward[row] == pytest.approx(value, abs=1e-10)
        assert (terminated[row], truncated[row]) == (ended, late)
        assert not {"task", "goal", "direction", "velocity", "sign"} & set(info)
        if ended or late:
            expected = env.reset()[0]
    env.close()


@pytest.mark.parametrize("name", UNIQUE)
def test_the_task_is_hidden(name):
    """Until rewards or dynamics tell, two tasks cannot be told apart."""
    f = family(name)
    first = [gymnasium.make(f.env_id, task=t).reset(seed=0) for t in f.train_tasks[:2]]
    if name != "lunar-lander-params":  # whose reset already takes a step of the task's own physics
        assert np.array_equal(first[0][0], first[1][0])
    assert first[0][1].keys() == first[1][1].keys()
    if name not in ("lunar-lander-params", "walker2d-params", "hopper-params"):
        np.testing.assert_equal(first[0][1], first[1][1])


def test_the_horizon_of_the_preset_truncates():
    for preset, horizon in (("modern", 200), ("promp2018", 100)):
        env = gymnasium.make("pmeta/HalfCheetahDir-v0", task=-1, preset=preset)
        env.reset(seed=0)
        flags = [env.step(np.zeros(6))[3] for _ in range(horizon)]
        assert flags.index(True) == horizon - 1


@pytest.mark.parametrize("env_id", ["pmeta/AntGoal-v0", "pmeta/HopperParams-v0", "pmeta/PendulumParams-v0"])
def test_copies_keep_their_task(env_id):
    f = next(family(n) for n in FAMILIES if family(n).env_id == env_id)
    env = gymnasium.make(env_id, task=f.train_tasks[2]).unwrapped
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        runs = []
        for e in (env, twin):
            e.reset(seed=1)
            runs.append([e.step(np.full(f.action_size, 0.1))[1] for _ in range(5)])
        assert runs[0] == runs[1]


@pytest.mark.parametrize("name", UNIQUE)
def test_a_copy_goes_on_from_where_the_original_stands(name):
    """Amid an episode, both then step alike to the bit and into the next one, and neither moves the other."""
    f = family(name)
    env = gymnasium.make(f.env_id, task=f.train_tasks[0])
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(f.action_low, f.action_high, (40, f.action_size)).astype(np.float32)

    def go_on(env):
        steps = [env.step(a)[:4] for a in actions[20:]]
        return steps, env.reset()[0], env.action_space.sample(), env.unwrapped.np_random.random()

    for action in actions[:20]:
        env.step(action)
    env.action_space.seed(5)
    first, second = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    expected = go_on(first)
    for other in (env, second):
        np.testing.assert_equal(go_on(other), expected)
    while not any(env.step(actions[0])[2:4]):
        pass
    assert env.unwrapped._steps == copy.deepcopy(env).unwrapped._steps > 0


@pytest.mark.parametrize("name", ["point-robot", "pendulum-flip", "hopper-params"])
def test_stable_baselines3_trains_unchanged(name):
    from stable_baselines3 import SAC

    f = family(name)
    env = gymnasium.make(f.env_id, task=f.train_tasks[0])
    model = SAC("MlpPolicy", env, learning_starts=30, batch_size=16, seed=0, policy_kwargs={"net_arch": [16]})
    before = [p.detach().clone() for p in model.actor.parameters()]
    model.learn(60)
    assert model._n_updates == 30
    assert any((a != b).any() for a, b in zip(before, model.actor.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "pmeta/HalfCheetahDir-v0", "task": 0.5}, r"must be \+1 or -1"),
        ({"id": "pmeta/AntGoal-v0", "task": (1.0,)}, r"needs \(number of slots, 2\)"),
        ({"id": "pmeta/AntDir-v0", "preset": "pearl"}, "unknown preset 'pearl'"),
        ({"id": "pmeta/PendulumFlip-v0", "preset": "pearl2019"}, "does not define pendulum-flip"),
    ],
)
def test_bad_keywords(options, message):
    with pytest.raises(UserError, match=message):
        gymnasium.make(**options)


@pytest.mark.parametrize("env_id", ["pmeta/HalfCheetahVel-v0", "pmeta/PendulumFlip-v0", "pmeta/PointRobot-v0"])
def test_an_action_that_is_not_finite_is_refused(env_id):
    env = gymnasium.make(env_id)
    env.reset(seed=0)
    with pytest.raises(UserError, match="not finite"):
        env.step(np.full(env.action_space.shape, np.nan))


def test_gymnasium_imports_the_package_by_itself():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('pmeta_lib.envs:pmeta/HalfCheetahDir-v0', task=-1)\n"
        "env.reset(seed=0); print(env.step(env.action_space.sample())[0].shape)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout == "(17,)\n" and done.stderr == ""
