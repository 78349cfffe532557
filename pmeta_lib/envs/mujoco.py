"""The MuJoCo families: all slots stepped together, and one gymnasium environment of each.

The single environments are gymnasium's own v5 classes with the rewards of robots.py, so physics and observations are
gymnasium's; the stacked one steps the same models without their per-slot overhead."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np
from gymnasium.utils import EzPickle

from pmeta_lib.envs.families import TaskFamily, check_action, check_task, lookup
from pmeta_lib.envs.robots import TASKS, Task, definition, scale_body
from pmeta_lib.envs.vector import Batch

# Everything the next step depends on: time, positions, velocities, controls and the solver's warm start.
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class MujocoBatch(Batch):
    """B robots of one family: `mj_step` on one MjData per slot, from `threads` threads (it releases the GIL).

    `mujoco.rollout` was measured too (see `pmeta bench env`): it returns no contact forces or inertias, and it does not
    carry the solver's warm start from call to call, so it does not equal gymnasium's physics."""

    kept = ("before", "rows")

    def __init__(self, family: TaskFamily, tasks: np.ndarray, threads: int = 1):
        env = definition(family.name, family.preset)[0].env()  # the source of the model, frame skip and reset noise
        self.noise, self.init_qpos, self.init_qvel = env._reset_noise_scale, env.init_qpos, env.init_qvel
        self.skip, template = env.frame_skip, env.model
        self.task, self.tasks = Task(family.name, family.preset, template, env.dt), np.array(tasks, np.float64)
        env.close()
        # MuJoCo would silently restart a simulation that diverges; let it show instead.
        template.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self.contacts = "cfrc_ext" in self.task.robot.hidden
        self.models = [copy.copy(template) if self.task.robot.changes_body else template for _ in self.tasks]
        self.data = [mujoco.MjData(model) for model in self.models]
        if self.task.robot.changes_body:
            for body in zip(self.models, self.data, self.tasks):
                scale_body(*body)
        self.views = [self.task.views(d) for d in self.data]
        self.controls = [d.ctrl for d in self.data]
        self.rows = np.zeros((len(self.tasks), self.task.size))
        self.before = self.task.position(self.rows)
        self.helpers = min(threads, len(self.tasks)) - 1
        self.pool = ThreadPoolExecutor(max(1, self.helpers))  # starts a thread only when it is given work

    def observe(self) -> np.ndarray:
        return self.task.observe(self.rows)

    def reset(self, slots, generators) -> None:
        """gymnasium's `reset_model`, draw for draw, from each slot's own generator."""
        for b in slots:
            model, data, rng = self.models[b], self.data[b], generators[b]
            mujoco.mj_resetData(model, data)
            data.qpos[:] = self.init_qpos + rng.uniform(-self.noise, self.noise, size=model.nq)
            if self.task.robot.normal_start:
                data.qvel[:] = self.init_qvel + self.noise * rng.standard_normal(model.nv)
            else:
                data.qvel[:] = self.init_qvel + rng.uniform(-self.noise, self.noise, size=model.nv)
            mujoco.mj_forward(model, data)
            np.concatenate(self.views[b], out=self.rows[b])
        self.before[slots] = self.task.position(self.rows[slots])

    def _advance(self, slots, actions) -> None:
        for b in slots:
            self.controls[b][:] = actions[b]
            mujoco.mj_step(self.models[b], self.data[b], self.skip)
            if self.contacts:  # this fills cfrc_ext; it changes nothing that the next step reads
                mujoco.mj_rnePostConstraint(self.models[b], self.data[b])
            np.concatenate(self.views[b], out=self.rows[b])

    def step(self, actions: np.ndarray):
        actions = actions.astype(np.float64)
        slots = iter(range(len(actions)))  # shared: a thread takes the next slot when it is done with one
        others = [self.pool.submit(self._advance, slots, actions) for _ in range(self.helpers)]
        self._advance(slots, actions)
        for other in others:
            other.result()
        reward, terminated, self.before = self.task.outcome(self.tasks, self.before, self.rows, actions)
        return reward, terminated

    def state(self) -> dict[str, np.ndarray]:
        physics = np.zeros((len(self.data), mujoco.mj_stateSize(self.models[0], STATE)))
        for model, data, row in zip(self.models, self.data, physics):
            mujoco.mj_getState(model, data, row, STATE)
        return {"physics": physics, **super().state()}

    def load(self, state, generators) -> None:
        for model, data, row in zip(self.models, self.data, state["physics"]):
            mujoco.mj_setState(model, data, row, STATE)
        super().load(state, generators)

    def close(self) -> None:
        self.pool.shutdown()


_Base: Any = object  # one of gymnasium's classes, once it is mixed in


class _TaskEnv(_Base):
    """Mixed into one of gymnasium's v5 classes: the family's reward and ending on unchanged physics. `task` is hidden:
    it appears neither in the observation nor in `info`. An episode is truncated after the preset's horizon. Further
    keywords (`render_mode`, `width`, `camera_name`, ...) go to gymnasium's class."""

    def __init__(self, family: str, task=None, preset: str = "modern", render_mode: str | None = None, **options):
        self.family, self._parameters = family, check_task(family, task, preset)[None]
        self._horizon, self._steps = lookup(family, preset).horizon, 0
        if definition(family, preset)[0].hidden["qpos"] == 0:
            options.setdefault("exclude_current_positions_from_observation", False)
        super().__init__(render_mode=render_mode, **options)
        EzPickle.__init__(self, family, task=task, preset=preset, render_mode=render_mode, **options)
        self._task = Task(family, preset, self.model, self.dt)
        if self._task.robot.changes_body:
            scale_body(self.model, self.data, self._parameters[0])
        self._views = self._task.views(self.data)

    # gymnasium's EzPickle copies the constructor's arguments only: the copy would stand at a start of its own.
    def __getstate__(self):
        names = ("_steps", "_np_random", "_np_random_seed", "action_space", "observation_space")
        return super().__getstate__() | {"data": self.data, "rest": {name: getattr(self, name) for name in names}}

    def __setstate__(self, state):
        super().__setstate__(state)
        mujoco.mj_copyData(self.data, self.model, state["data"])  # into the new arrays that `_views` looks at
        self.__dict__.update(state["rest"])

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        action = check_action(self.family, action).astype(np.float64)
        before = self._task.position(np.concatenate(self._views)[None])
        self.do_simulation(action, self.frame_skip)
        rows = np.concatenate(self._views)[None]
        reward, terminated, after = self._task.outcome(self._parameters, before, rows, action[None])
        self._steps += 1
        if self.render_mode == "human":
            self.render()
        info = {"x_position": self.data.qpos[0], "x_velocity": ((after - before) / self.dt)[0, 0]}
        return self._get_obs(), float(reward[0]), bool(terminated[0]), self._steps >= self._horizon, info


_ENVS: dict[type, type] = {
    base: type(f"Task{base.__name__}", (_TaskEnv, base), {"__module__": __name__, "__doc__": _TaskEnv.__doc__})
    for base in {robot.env for robot, _ in TASKS.values()}
}
globals().update({made.__name__: made for made in _ENVS.values()})  # where copies between processes look for them


def task_env(family: str, task=None, preset: str = "modern", **options) -> _TaskEnv:
    """A single environment of a MuJoCo family; rewards and the meaning of `task` are in robots.py, by the family."""
    return _ENVS[definition(family, preset)[0].env](family, task, preset, **options)
