"""The MuJoCo families as functions: rewards, endings, observations and bodies of gymnasium's v5 robots.

One *row* per slot holds everything that rewards and observations need; all functions take the rows of all slots at
once. The single environments and the stacked ones (mujoco.py) share them. B slots, tasks `(B, k)`.

The constants are those that MAML, ProMP, PEARL and VariBAD share; each reward says where gymnasium's differ."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv


# ---------------------------------------------------------------------------------------------- rewards
# task (B, k), velocity (B, 1 or 2) in m/s, action (B, a), s: rows of MjData's arrays by name, and "healthy"; -> (B,)
def _square(action: np.ndarray) -> np.ndarray:
    return (action * action).sum(1)


def half_cheetah_dir(task, velocity, action, s):
    """`direction * v - 0.05 |a|^2` (MAML, ProMP, PEARL); gymnasium's own control weight is 0.1."""
    return task[:, 0] * velocity[:, 0] - 0.05 * _square(action)


def half_cheetah_vel(task, velocity, action, s):
    """`-|v - v_target| - 0.05 |a|^2` (MAML, ProMP, PEARL); gymnasium's own control weight is 0.1."""
    return -np.abs(velocity[:, 0] - task[:, 0]) - 0.05 * _square(action)


def _contact(s) -> np.ndarray:
    """`5e-4 |clip(cfrc_ext, -1, 1)|^2`: gymnasium's Ant-v5 and PEARL agree."""
    return 5e-4 * _square(np.clip(s["cfrc_ext"], -1.0, 1.0))


def _along(angle: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    return np.cos(angle) * velocity[:, 0] + np.sin(angle) * velocity[:, 1]


def ant_dir(task, velocity, action, s):
    """`v . direction - 0.5 |a|^2 - contact + 1` (MAML, ProMP, PEARL).

    The bonus is paid on every step, as there; Ant-v5 withholds it on the step the ant falls."""
    return _along(task[:, 0], velocity) - 0.5 * _square(action) - _contact(s) + 1.0


def ant_goal(task, velocity, action, s):
    """`-(|x - gx| + |y - gy|) - 0.1 |a|^2 - contact` (ProMP, PEARL): no bonus, no early end.

    x, y is the torso after the step, as gymnasium and PEARL read it."""
    return -np.abs(s["xpos"][:, 3:5] - task).sum(1) - 0.1 * _square(action) - _contact(s)


def humanoid_dir(task, velocity, action, s):
    """`1.25 v . direction - 0.1 |a|^2 - min(5e-7 |cfrc_ext|^2, 10) + 5` (ProMP, PEARL).

    The field writes `0.25 * displacement / model.opt.timestep`; with 5 frames a step that is 1.25 times the velocity of
    the centre of mass, the weight of gymnasium's Humanoid-v5. Each step pays it: 200 steps of standing earn 1,000."""
    impact = np.minimum(5e-7 * _square(s["cfrc_ext"]), 10.0)
    return 1.25 * _along(task[:, 0], velocity) - 0.1 * _square(action) - impact + 5.0


def run(task, velocity, action, s):
    """`v - 0.001 |a|^2 + 1`: rand_param_envs, and so the presets of PEARL, ProMP and VariBAD."""
    return velocity[:, 0] - 1e-3 * _square(action) + 1.0


def healthy_run(task, velocity, action, s):
    """As `run`, the bonus paid only where healthy: gymnasium's own Walker2d-v5 and Hopper-v5 (modern)."""
    return velocity[:, 0] - 1e-3 * _square(action) + s["healthy"]


# ----------------------------------------------------------------------------------------------- robots
# where a robot is healthy: qpos (B, nq), qvel (B, nv) -> (B,) bool
def _ant_healthy(qpos, qvel, lowest=0.2):
    finite = np.isfinite(qpos).all(1) & np.isfinite(qvel).all(1)
    return finite & (qpos[:, 2] >= lowest) & (qpos[:, 2] <= 1.0)


def _walker_healthy(qpos, qvel):
    return (qpos[:, 1] > 0.8) & (qpos[:, 1] < 2.0) & (np.abs(qpos[:, 2]) < 1.0)


def _hopper_healthy(qpos, qvel):
    bounded = (np.abs(qpos[:, 2:]) < 100).all(1) & (np.abs(qvel) < 100).all(1)
    return bounded & (qpos[:, 1] > 0.7) & (np.abs(qpos[:, 2]) < 0.2)


@dataclass(frozen=True)
class Robot:
    """How one of gymnasium's v5 robots is observed, and when its episode ends."""

    env: type  # gymnasium's class; constructor options are its defaults
    hidden: dict[str, int]  # the MjData arrays that are observed, and how many leading entries of each are left out
    clip: dict[str, float] = field(default_factory=dict)  # where an array is observed within bounds: its largest entry
    position: str = "qpos"  # what velocity is the difference of: x, the torso's x, y ("xpos"), the mass's ("xipos")
    healthy: Callable = lambda qpos, qvel: np.ones(len(qpos), bool)  # the episode ends where it is not
    normal_start: bool = False  # whether a start's velocities are normal, else uniform
    changes_body: bool = False  # whether the task does, see `scale_body`


HALF_CHEETAH = Robot(HalfCheetahEnv, {"qpos": 1, "qvel": 0}, normal_start=True)
# Of contacts and inertias, the world body is hidden; of the actuators' forces, the root.
ANT = Robot(AntEnv, {"qpos": 2, "qvel": 0, "cfrc_ext": 6}, {"cfrc_ext": 1.0}, "xpos", _ant_healthy, normal_start=True)
PROMP_ANT = replace(ANT, healthy=partial(_ant_healthy, lowest=0.0))
# ant-goal sees the torso's x, y, as in ProMP, PEARL and VariBAD (`exclude_current_positions_from_observation`
# is off): without them no policy could tell where the goal is. It never ends early.
GOAL_ANT = replace(ANT, hidden=ANT.hidden | {"qpos": 0}, healthy=Robot.healthy)
_BODIES = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}
HUMANOID = Robot(HumanoidEnv, {"qpos": 2, "qvel": 0} | _BODIES, position="xipos",
                 healthy=lambda qpos, qvel: (qpos[:, 2] > 1.0) & (qpos[:, 2] < 2.0))  # fmt: skip
WALKER = Robot(Walker2dEnv, {"qpos": 1, "qvel": 0}, {"qvel": 10.0}, healthy=_walker_healthy, changes_body=True)
HOPPER = replace(WALKER, env=HopperEnv, healthy=_hopper_healthy)

# family, or (family, preset) where a paper's reward or ending differs: robot, reward
TASKS: dict[str | tuple[str, str], tuple[Robot, Callable]] = {
    "half-cheetah-dir": (HALF_CHEETAH, half_cheetah_dir),
    "half-cheetah-vel": (HALF_CHEETAH, half_cheetah_vel),
    **dict.fromkeys(("ant-dir", "ant-dir-graded"), (ANT, ant_dir)),
    **dict.fromkeys((("ant-dir", "promp2018"), ("ant-dir-graded", "promp2018")), (PROMP_ANT, ant_dir)),
    "ant-goal": (GOAL_ANT, ant_goal),
    "humanoid-dir": (HUMANOID, humanoid_dir),
    "walker2d-params": (WALKER, healthy_run),
    "hopper-params": (HOPPER, healthy_run),
}
for _preset in ("pearl2019", "promp2018", "varibad2020"):
    TASKS |= {("walker2d-params", _preset): (WALKER, run), ("hopper-params", _preset): (HOPPER, run)}


def definition(family: str, preset: str) -> tuple[Robot, Callable]:
    """The robot of a family under a preset, and its reward."""
    base = family.partition("@")[0]  # at every heterogeneity the robot and the reward are the same
    return TASKS.get((base, preset), TASKS[base])


# The elements of MjModel that a *params* task multiplies, in the order of its vector, as in rand_param_envs: one
# multiplier per body (mass), per body and axis (inertia), per degree of freedom (damping), and per geom and kind of
# friction (sliding, torsional, rolling).
BODY = ("body_mass", "body_inertia", "dof_damping", "geom_friction")


def scale_body(model: mujoco.MjModel, data: mujoco.MjData, multipliers: np.ndarray) -> None:
    """Multiply mass, inertia, damping and friction of `model` in place by a task vector; reset `data`.

    `mj_setConst` recomputes what MuJoCo derives from masses and inertias (subtree masses, inverse weights that scale
    constraint softness, mean inertia that scales the solver's tolerance): without it the contacts of a light robot
    would be as soft as those of the original. It leaves `data.qpos` where springs rest, which is not `qpos0`."""
    arrays = [getattr(model, name) for name in BODY]
    for array, part in zip(arrays, np.split(multipliers, np.cumsum([array.size for array in arrays[:-1]]))):
        array *= part.reshape(array.shape)
    mujoco.mj_setConst(model, data)
    mujoco.mj_resetData(model, data)


# ------------------------------------------------------------------------------------------------- rows
class Task:
    """One family under a preset on one model: where MjData's arrays lie in a row, what is observed, reward and end."""

    def __init__(self, family: str, preset: str, model: mujoco.MjModel, dt: float):
        self.robot, self.reward = definition(family, preset)
        self.dt, self.mass, data = dt, model.body_mass.copy(), mujoco.MjData(model)
        names = dict.fromkeys((*self.robot.hidden, self.robot.position))
        ends = np.cumsum([0, *(getattr(data, name).size for name in names)]).tolist()
        self.slices, self.size = {name: slice(*part) for name, part in zip(names, pairwise(ends))}, ends[-1]
        seen = {n: np.arange(self.slices[n].start + k, self.slices[n].stop) for n, k in self.robot.hidden.items()}
        self.columns = np.concatenate(list(seen.values()))
        self.most = np.concatenate([np.full(len(c), self.robot.clip.get(n, np.inf)) for n, c in seen.items()])

    def views(self, data: mujoco.MjData) -> tuple[np.ndarray, ...]:
        """Flat windows into `data`, in row order: `np.concatenate(views, out=row)` is the one copy."""
        return tuple(getattr(data, name).reshape(-1) for name in self.slices)

    def observe(self, rows: np.ndarray) -> np.ndarray:
        """gymnasium's observation, `(B, o)`."""
        observation = rows[:, self.columns]
        return np.clip(observation, -self.most, self.most, out=observation) if self.robot.clip else observation

    def position(self, rows: np.ndarray) -> np.ndarray:
        """What the reward's velocity is the difference of, `(B, 1 or 2)`."""
        part = rows[:, self.slices[self.robot.position]]
        if self.robot.position == "xipos":
            return np.einsum("b,nbj->nj", self.mass, part.reshape(len(rows), -1, 3)[:, :, :2]) / self.mass.sum()
        return part[:, 3:5].copy() if self.robot.position == "xpos" else part[:, :1].copy()  # body 0 is the world

    def outcome(self, task, before, rows, action):
        """`-> reward (B,), terminated (B,), position (B, 1 or 2)` of the step from `before` to `rows`."""
        s = {name: rows[:, columns] for name, columns in self.slices.items()}
        s["healthy"] = self.robot.healthy(s["qpos"], s["qvel"])
        after = self.position(rows)
        return self.reward(task, (after - before) / self.dt, action, s), ~s["healthy"], after
