"""Lunar lander with gravity, wind and turbulence per task: gymnasium's LunarLander-v3, continuous actions.

Box2D offers no state to copy, but it is deterministic given the seed and the actions: an environment's state
is saved as the generator at the episode's start plus the actions since, and restored by replaying them.

Box2D's many small objects lie between the buffers of a training run, so that glibc (seen with 2.36) does not find the
freed buffers' places again: a megabyte a step, 15 GB an hour. `LunarBatch` therefore hands free pages back regularly.
"""

import copy
import ctypes
import os
import sys
import warnings

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.utils import EzPickle

from pmeta_lib.envs.families import TaskFamily, check_action, check_task, lookup
from pmeta_lib.envs.vector import Batch, pack, unpack
from pmeta_lib.files import UserError

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # gymnasium's box2d package imports pygame
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SWIG's deprecations, on import only
        from gymnasium.envs.box2d.lunar_lander import LunarLander
except (ImportError, DependencyNotInstalled) as error:
    raise UserError("lunar-lander-params needs Box2D, which is missing: pip install 'pmeta_lib[box2d]'.") from error


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
TRIM_EVERY = 50  # steps of a batch


class LunarLanderParamsEnv(LunarLander):
    """`task = (gravity, wind power, turbulence power)`, as LunarLander-v3 names them; its own reward. 400 steps instead
    of 1,000: enough to land, and hovering does not pay."""

    def __init__(self, family="lunar-lander-params", task=None, preset: str = "modern", render_mode: str | None = None):
        gravity, wind, turbulence = (float(x) for x in check_task(family, task, preset))
        super().__init__(render_mode, True, gravity, True, wind, turbulence)
        self._horizon, self._steps = lookup(family, preset).horizon, 0
        EzPickle.__init__(self, family, task, preset, render_mode)  # with these a copy is made anew
        self._start, self._actions = None, []  # the generator before the episode, and the actions since

    # gymnasium's EzPickle copies the constructor's arguments only; Box2D's world is replayed.
    def __getstate__(self):
        names = ("_np_random", "_np_random_seed", "action_space", "observation_space")
        rest = {name: getattr(self, name) for name in names}
        return super().__getstate__() | {"start": self._start, "actions": self._actions, "rest": rest}

    def __setstate__(self, state):
        super().__setstate__(state)
        if state["start"] is not None:
            self.np_random = copy.deepcopy(state["start"])
            self.reset()
            for action in state["actions"]:
                self.step(action)
        self.__dict__.update(state["rest"])

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self._start = copy.deepcopy(self.np_random)
        outcome = super().reset(options=options)
        self._steps, self._actions = 0, []  # gymnasium's reset takes a step of its own
        return outcome

    def step(self, action):
        self._steps += 1
        self._actions.append(np.array(action))
        observation, reward, terminated, _, info = super().step(check_action("lunar-lander-params", action))
        return observation, float(reward), terminated, self._steps >= self._horizon, info


class LunarBatch(Batch):
    """B landers, one Box2D world each, stepped in a loop: Box2D has no batched form."""

    def __init__(self, family: TaskFamily, tasks: np.ndarray, threads: int = 1):
        self.envs = [LunarLanderParamsEnv(task=task) for task in tasks]
        self.observation = np.zeros((len(tasks), 8))
        self.horizon, self.steps = family.horizon, 0

    def observe(self) -> np.ndarray:
        return self.observation.copy()

    def reset(self, slots, generators) -> None:
        for b in slots:
            self.envs[b].np_random = generators[b]
            self.observation[b] = self.envs[b].reset()[0]

    def step(self, actions: np.ndarray):
        reward, terminated = np.zeros(len(actions)), np.zeros(len(actions), bool)
        for b, env in enumerate(self.envs):
            self.observation[b], reward[b], terminated[b], _, _ = env.step(actions[b])
        self.steps += 1
        if self.steps % TRIM_EVERY == 0 and hasattr(_libc, "malloc_trim"):  # musl has none
            _libc.malloc_trim(0)
        return reward, terminated

    def state(self) -> dict[str, np.ndarray]:
        """Each slot's generator at the episode's start, and the actions `(B, H, 2)` of which it has `taken`."""
        actions = np.zeros((len(self.envs), self.horizon, 2))
        for row, env in zip(actions, self.envs):
            row[: env._steps] = np.reshape(env._actions, (-1, 2))
        start = np.stack([pack(env._start or env.np_random) for env in self.envs])
        return {"taken": np.array([env._steps for env in self.envs]), "start": start, "actions": actions}

    def load(self, state, generators) -> None:
        for b, taken in enumerate(state["taken"]):
            unpack(generators[b], state["start"][b])
            self.reset([b], generators)
            for action in state["actions"][b, :taken]:
                self.observation[b] = self.envs[b].step(action)[0]
