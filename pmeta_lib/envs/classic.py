"""The NumPy tasks: point-robot and the pendulums, stacked over slots, and one environment of each.

Shapes: B slots, each with its own task; o, a, k: sizes of observation, action and task parameters. The single
environments use the functions of the stacked ones (`vector.Batch`), so that there is one definition of every reward."""

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from pmeta_lib.envs.families import TaskFamily, check_action, check_task, lookup
from pmeta_lib.envs.vector import Batch

STEP = 0.1  # the largest move of the point robot along an axis
MAX_SPEED, MAX_TORQUE, DT = 8.0, 2.0, 0.05  # gymnasium's Pendulum-v1


def point_robot(position: np.ndarray, action: np.ndarray, goal: np.ndarray):
    """One step of the 2-D navigation task: `position, action, goal (B, 2) -> position, reward (B,)`. The action is a
    displacement, clipped to [-0.1, 0.1] per axis as in MAML (Finn et al., 2017); the reward is the negative distance to
    the goal *after* the move, as in MAML and PEARL. Episodes start at the origin and last 20 steps; goals lie on the
    upper half of the unit circle (PEARL's `sparse-point-robot`, with its dense reward)."""
    position = position + np.clip(action, -STEP, STEP)
    return position, -np.sqrt(((position - goal) ** 2).sum(1))


def pendulum(state: np.ndarray, torque: np.ndarray, gravity=10.0, mass=1.0, length=1.0):
    """One step of Pendulum-v1 with gravity, mass and length per slot: `state (B, 2) = (angle, speed), torque (B,) ->
    state, reward (B,)`; the angle is 0 upright, `torque` already clipped to [-2, 2]."""
    angle, speed = state[:, 0], state[:, 1]
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    cost = wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
    gain = np.asarray(3.0 / (mass * length**2), torque.dtype)  # rounds where gymnasium rounds, so that
    speed = speed + (3 * gravity / (2 * length) * np.sin(angle) + gain * torque) * DT  # both agree to the bit
    speed = np.clip(speed, -MAX_SPEED, MAX_SPEED)
    return np.stack((angle + speed * DT, speed), axis=1), -cost


class PointRobotBatch(Batch):
    """B point robots; task = goal (x, y)."""

    kept = ("position",)

    def __init__(self, family: TaskFamily | None, tasks: np.ndarray, threads: int = 1):
        self.goals, self.position = np.array(tasks, np.float64), np.zeros((len(tasks), 2))

    def observe(self) -> np.ndarray:
        return self.position.copy()

    def reset(self, slots, generators) -> None:
        self.position[slots] = 0.0

    def step(self, actions: np.ndarray):
        self.position, reward = point_robot(self.position, actions, self.goals)
        return reward, np.zeros(len(reward), bool)


class PendulumBatch(Batch):
    """B pendulums; task = (gravity m/s^2, mass kg, length m), (sign of the torque,), or all four."""

    kept = ("angle_speed",)

    def __init__(self, family: TaskFamily | None, tasks: np.ndarray, threads: int = 1):
        self.parameters, self.sign = pendulum_task(np.asarray(tasks, np.float64))
        self.angle_speed = np.zeros((len(tasks), 2))

    def observe(self) -> np.ndarray:
        angle, speed = self.angle_speed.T
        return np.stack((np.cos(angle), np.sin(angle), speed), axis=1)

    def reset(self, slots, generators) -> None:
        for b in slots:  # angle in [-pi, pi], speed in [-1, 1], as Pendulum-v1
            self.angle_speed[b] = generators[b].uniform(low=(-np.pi, -1.0), high=(np.pi, 1.0))

    def step(self, actions: np.ndarray):
        torque = self.sign.astype(actions.dtype) * np.clip(actions[:, 0], -MAX_TORQUE, MAX_TORQUE)
        self.angle_speed, reward = pendulum(self.angle_speed, torque, *self.parameters)
        return reward, np.zeros(len(reward), bool)


def pendulum_task(tasks: np.ndarray):
    """`tasks (B, k)` -> ((gravity, mass, length), sign): k = 3 are the parameters, k = 1 is the sign, k = 4 both."""
    if tasks.shape[1] == 1:
        return (10.0, 1.0, 1.0), tasks[:, 0]
    return tuple(tasks[:, :3].T), tasks[:, 3] if tasks.shape[1] == 4 else np.ones(len(tasks))


class PointRobotEnv(gymnasium.Env):
    """2-D navigation to a hidden goal `task = (x, y)`; see `point_robot` for dynamics and reward."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012 (gymnasium's convention)

    def __init__(self, family="point-robot", task=None, preset: str = "modern", render_mode: str | None = None):
        self.render_mode, self._horizon = render_mode, lookup(family, preset).horizon
        self._batch = PointRobotBatch(None, check_task(family, task, preset)[None])
        self.action_space = gymnasium.spaces.Box(-STEP, STEP, (2,), np.float32)
        reach = STEP * (self._horizon + 1)  # finite: a robot cannot get further in one episode
        self.observation_space = gymnasium.spaces.Box(-reach, reach, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        self._batch.reset([0], [self.np_random])
        return self._batch.observe()[0].astype(np.float32), {}

    def step(self, action):
        self._steps += 1
        reward, _ = self._batch.step(check_action("point-robot", action)[None])
        observation = self._batch.observe()[0].astype(np.float32)
        return observation, float(reward[0]), False, self._steps >= self._horizon, {}


class PendulumTaskEnv(PendulumEnv):
    """Pendulum-v1 with a hidden task. pendulum-params: gravity, mass and length `(g, m, l)` in m/s^2, kg, m;
    pendulum-flip: a motor that is wired forwards or backwards, `(+1,)` or `(-1,)`."""

    def __init__(self, family: str, task=None, preset: str = "modern", render_mode: str | None = None):
        super().__init__(render_mode=render_mode)
        self._family, self._horizon = family, lookup(family, preset).horizon
        parameters, self._sign = pendulum_task(check_task(family, task, preset)[None])
        self.g, self.m, self.l = (float(np.ravel(x)[0]) for x in parameters)  # Python's: the torque keeps its precision

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self._steps += 1
        action = check_action(self._family, action)
        observation, reward, *_ = super().step(self._sign.astype(action.dtype) * action)
        return observation, float(reward), False, self._steps >= self._horizon, {}
