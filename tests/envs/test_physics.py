"""The stacked physics against gymnasium's own environments: 1,000 steps, resets included, to 1e-10."""

import gymnasium
import mujoco
import numpy as np
import pytest

from pmeta_lib.envs import TaskVectorEnv, family
from pmeta_lib.envs.families import lookup
from pmeta_lib.envs.robots import BODY, definition, scale_body

NOMINAL = [
    "half-cheetah-dir",
    "half-cheetah-vel",
    "ant-dir",
    "ant-dir-graded",
    "ant-goal",
    "humanoid-dir",
    "walker2d-params",
    "hopper-params",
]
PARAMS = ["walker2d-params", "hopper-params"]


def reference(f, **options):
    """gymnasium's own environment of the same robot, same horizon."""
    if f.name == "ant-goal":
        options["exclude_current_positions_from_observation"] = False
        options["terminate_when_unhealthy"] = False
    return gymnasium.make(f.versions["base"], max_episode_steps=f.horizon, **options)


def alter(model, data, task):
    """Multiply the four kinds of parameters, written without the library's own function."""
    blocks = np.split(task, np.cumsum([getattr(model, name).size for name in BODY])[:-1])
    model.body_mass[:] = model.body_mass * blocks[0]
    model.body_inertia[:] = model.body_inertia * blocks[1].reshape(-1, 3)
    model.dof_damping[:] = model.dof_damping * blocks[2]
    model.geom_friction[:] = model.geom_friction * blocks[3].reshape(-1, 3)
    mujoco.mj_setConst(model, data)


def expected_reward(name, task, before, env, action, info):
    """The definitions of the field, from gymnasium's own numbers."""
    data, control = env.unwrapped.data, float(action @ action)
    if name == "half-cheetah-dir":
        return task[0] * info["x_velocity"] - 0.05 * control
    if name == "half-cheetah-vel":
        return -abs(info["x_velocity"] - task[0]) - 0.05 * control
    if name in PARAMS:
        return info["reward_forward"] + info["reward_survive"] + info["reward_ctrl"]
    velocity = np.array([info["x_velocity"], info["y_velocity"]])
    direction = np.array([np.cos(task[0]), np.sin(task[0])])
    if name == "humanoid-dir":  # PEARL's own way of writing it
        displacement = velocity * env.unwrapped.dt
        impact = min(0.5e-6 * np.square(data.cfrc_ext).sum(), 10)
        return 0.25 * displacement @ direction / env.unwrapped.model.opt.timestep - 0.1 * control - impact + 5
    contact = 0.5e-3 * np.square(np.clip(data.cfrc_ext, -1, 1)).sum()
    if name == "ant-goal":
        return -np.abs(data.body("torso").xpos[:2] - task).sum() - 0.1 * control - contact
    return velocity @ direction - 0.5 * control - contact + 1


@pytest.mark.parametrize("name", NOMINAL)
def test_a_thousand_steps_equal_gymnasium(name):
    f = family(name)
    tasks = np.vstack([f.train_tasks[:1], np.array([lookup(name).default])])
    if name in PARAMS:
        tasks = np.ones_like(tasks)
    ours = TaskVectorEnv(f, tasks, [11, 7], dtype=np.float64)
    env = reference(f)
    assert env.observation_space.shape == (f.observation_size,)
    assert np.allclose(env.action_space.low, f.action_low) and np.allclose(env.action_space.high, f.action_high)
    rng, resets = np.random.default_rng(1), 0
    observation, expected = ours.reset()[0], env.reset(seed=7)[0]
    for _ in range(1000):
        assert np.abs(observation[1] - expected).max() <= 1e-10
        actions = rng.uniform(f.action_low, f.action_high, (2, f.action_size))
        observation, reward, terminated, truncated, info = ours.step(actions)
        expected, _, ended, out_of_time, details = env.step(actions[1])
        assert np.abs(info["final_obs"][1] - expected).max() <= 1e-10
        assert reward[1] == pytest.approx(expected_reward(name, tasks[1], None, env, actions[1], details), abs=1e-10)
        assert (terminated[1], truncated[1]) == (ended, out_of_time)
        if ended or out_of_time:
            expected, resets = env.reset()[0], resets + 1
    assert resets >= 4


@pytest.mark.parametrize("name", PARAMS)
def test_altered_bodies_equal_gymnasium_with_the_same_alterations(name):
    f = family(name)
    env = reference(f)
    alter(env.unwrapped.model, env.unwrapped.data, f.train_tasks[3])
    ours = TaskVectorEnv(f, f.train_tasks, range(10), dtype=np.float64)
    rng = np.random.default_rng(0)
    observation, expected = ours.reset()[0], env.reset(seed=3)[0]
    for _ in range(1000):
        assert np.abs(observation[3] - expected).max() <= 1e-10
        actions = rng.uniform(-1, 1, (10, f.action_size))
        observation, reward, terminated, truncated, _ = ours.step(actions)
        expected, value, ended, out_of_time, _ = env.step(actions[3])
        assert reward[3] == pytest.approx(value, abs=1e-10)
        assert (terminated[3], truncated[3]) == (ended, out_of_time)
        if ended or out_of_time:
            expected = env.reset()[0]


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("part", BODY)
def test_each_kind_of_parameter_changes_the_trajectory(name, part):
    f = family(name)
    model = reference(f).unwrapped.model
    sizes = [getattr(model, p).size for p in BODY]
    assert f.train_tasks.shape[1] == sum(sizes)
    start = sum(sizes[: BODY.index(part)])
    task = np.ones((3, sum(sizes)))
    task[1, start : start + sizes[BODY.index(part)]] = 1.5
    env = TaskVectorEnv(f, task, [5, 5, 5], dtype=np.float64)
    rng, apart = np.random.default_rng(2), 0.0
    env.reset()
    for _ in range(30):
        action = np.tile(rng.uniform(-1, 1, f.action_size), (3, 1))
        final = env.step(action)[4]["final_obs"]
        assert np.array_equal(final[0], final[2])  # equal tasks, equal seeds: equal to the bit
        apart = max(apart, np.abs(final[0] - final[1]).max())
    assert apart > 1e-3
    changed, nominal = env.batch.models[1], env.batch.models[0]
    for other in BODY:
        factor = 1.5 if other == part else 1.0
        assert np.allclose(getattr(changed, other), factor * getattr(nominal, other))
    # what MuJoCo derives from the masses has followed them
    assert changed.body_subtreemass[0] == pytest.approx(changed.body_mass.sum())
    assert np.array_equal(nominal.dof_invweight0, model.dof_invweight0)
    if part in ("body_mass", "body_inertia"):
        assert not np.allclose(changed.dof_invweight0, nominal.dof_invweight0)


@pytest.mark.parametrize("name", PARAMS)
def test_extreme_bodies_stay_finite(name):
    f = family(name, train=60)
    env = TaskVectorEnv(f, f.train_tasks, range(60))
    rng = np.random.default_rng(0)
    env.reset()
    for _ in range(120):  # a diverged simulation raises FloatingPointError
        env.step(np.sign(rng.uniform(-1, 1, (60, f.action_size))))


def test_the_papers_presets_pay_and_end_as_they_did():
    rng = np.random.default_rng(0)
    f = {p: family("hopper-params", p) for p in ("modern", "pearl2019")}
    envs = {p: TaskVectorEnv(f[p], np.ones((1, 41)), [0], dtype=np.float64) for p in f}
    for env in envs.values():
        env.reset()
    while True:
        action = rng.uniform(-1, 1, (1, 3))
        (_, modern, ended, *_), (_, paper, also_ended, *_) = (envs[p].step(action) for p in f)
        assert ended == also_ended
        assert paper[0] - modern[0] == pytest.approx(float(ended[0]))  # the bonus on the step that falls
        if ended[0]:
            break
    qpos, qvel = np.zeros((4, 15)), np.zeros((4, 14))
    qpos[:, 2] = -0.01, 0.1, 0.5, 1.1  # ProMP's ant may crouch below 0.2 m
    low, modern = (definition("ant-dir", p)[0].healthy for p in ("promp2018", "modern"))
    assert low(qpos, qvel).tolist() == [False, True, True, False]
    assert modern(qpos, qvel).tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ["ant-dir", "humanoid-dir", "walker2d-params", "hopper-params"])
def test_episodes_end_where_gymnasiums_end(name):
    """The definition of healthy, on states spread around every threshold."""
    env, healthy = reference(family(name)).unwrapped, definition(name, "modern")[0].healthy
    rng, n = np.random.default_rng(0), 3000
    qpos = rng.uniform(-1.3, 1.3, (n, env.model.nq))
    qpos[:, 1:3] = rng.uniform([0.5, -1.2], [2.3, 1.2], (n, 2))  # walkers: height, angle
    if name in ("ant-dir", "humanoid-dir"):
        qpos[:, 2] = rng.uniform(0, 2.3, n)
    qpos[::2, 2] *= 0.15 if name == "hopper-params" else 1.0
    qvel = rng.uniform(-10, 10, (n, env.model.nv)) * np.where(rng.random((n, 1)) < 0.1, 11.0, 1.0)
    expected = np.zeros(n, bool)
    for i in range(n):
        env.data.qpos[:], env.data.qvel[:] = qpos[i], qvel[i]
        expected[i] = env.is_healthy
    assert 0.05 < expected.mean() < 0.95
    assert np.array_equal(healthy(qpos, qvel), expected)


def test_a_standing_humanoid_already_earns_about_five_a_step():
    f = family("humanoid-dir")
    env = TaskVectorEnv(f, f.train_tasks[:1], [0])
    env.reset()
    rewards = [env.step(np.zeros((1, 17)))[1][0] for _ in range(5)]
    assert np.mean(rewards) == pytest.approx(5, abs=0.5)


def test_contacts_are_those_of_the_mujoco_that_the_stored_results_had():
    """From 3.5 on the margin of a contact is the sum of its two geoms' margins; before, it was the larger one."""
    env = gymnasium.make("Ant-v5").unwrapped
    env.reset(seed=0)
    while not env.data.ncon:
        env.step(np.zeros(8))
    contact = env.data.contact
    assert contact.includemargin[0] == pytest.approx(env.model.geom_margin[contact.geom[0]].sum()) == 0.02


def test_a_scaled_body_is_left_at_the_reference_pose():
    env = gymnasium.make("Hopper-v5").unwrapped
    env.data.qvel[:], env.data.time = 3.0, 9.0
    scale_body(env.model, env.data, np.full(41, 1.1))
    assert np.array_equal(env.data.qpos, env.model.qpos0) and not env.data.qvel.any() and env.data.time == 0
    assert not np.array_equal(env.model.qpos_spring, env.model.qpos0)
