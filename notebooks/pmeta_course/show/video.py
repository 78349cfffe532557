"""Pictures of agents at work: film strips and small GIFs, rendered off-screen or drawn.

MuJoCo robots are rendered by MuJoCo itself where EGL or OSMesa works, in a process of its own (a GL driver that
crashes then costs a picture, not the notebook). Everywhere else, and for the classic tasks, the same poses are drawn
from the positions of the bodies with matplotlib.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pmeta_course.regression import machine
from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.sac.agent import act
from pmeta_lib.sac.networks import Shape

_RENDER = """
import sys, gymnasium, mujoco, numpy as np
given = np.load(sys.argv[1])
model = gymnasium.make("pmeta_lib.envs:" + str(given["env"]), task=given["task"]).unwrapped.model
data, renderer = mujoco.MjData(model), mujoco.Renderer(model, *map(int, given["size"]))
frames = []
for position in given["positions"]:
    data.qpos[:] = position
    mujoco.mj_forward(model, data)
    renderer.update_scene(data, camera="track")
    frames.append(renderer.render())
np.save(sys.argv[2], np.stack(frames))
renderer.close()
"""


@dataclass
class Episode:
    """One episode of a policy on one task: what is needed to draw it."""

    family: TaskFamily
    task: np.ndarray  # (k,)
    observations: np.ndarray  # (T + 1, o)
    positions: np.ndarray  # (T + 1, nq) of a MuJoCo robot; (T + 1, 0) for the others
    rewards: np.ndarray  # (T,)


def actor_policy(shape: Shape, actor: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """`(o,) -> (a,)` in [-1, 1]: the mode of an actor with parameters `actor (P,)`."""
    flat = actor.view(1, 1, -1)
    return lambda observation: act(shape, flat, torch.tensor(observation).float().view(1, 1, -1)).numpy()[0, 0]


def record_episode(family: TaskFamily, task: np.ndarray, policy: Callable, seed: int) -> Episode:
    """Run `policy: (o,) -> (a,) in [-1, 1]` for one episode of the single environment, seeded by `seed`."""
    task = np.asarray(task, float)
    env = gymnasium.make(f"pmeta_lib.envs:{family.env_id}", task=task, preset=family.preset)
    qpos = getattr(getattr(env.unwrapped, "data", None), "qpos", np.zeros(0))  # a view: it moves with the robot
    observations, rewards, done = [env.reset(seed=seed)[0]], [], False
    positions = [qpos.copy()]
    while not done:
        action = family.action_low + (policy(observations[-1]) + 1) / 2 * (family.action_high - family.action_low)
        observation, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
        observations.append(observation)
        positions.append(qpos.copy())
        rewards.append(reward)
        done = terminated or truncated
    env.close()
    return Episode(family, task, np.array(observations), np.array(positions), np.array(rewards))


def sticks(episode: Episode, times: np.ndarray) -> np.ndarray:
    """Line segments (F, M, 2 ends, 2) of the body at the given time steps: side view (x, z) in m; a pendulum's rod."""
    if episode.family.name.startswith("pendulum"):
        tip = episode.observations[times][:, [1, 0]] * [-1.0, 1.0]  # (sin, cos) of the angle from upright
        return np.stack([np.zeros_like(tip), tip], axis=1)[:, None]
    if not episode.positions.shape[1]:
        raise UserError(f"{episode.family.name} has no drawn picture; there is one for pendulums and MuJoCo robots")
    import mujoco

    env: Any = gymnasium.make(f"pmeta_lib.envs:{episode.family.env_id}", task=episode.task)
    model, data, frames = env.unwrapped.model, env.unwrapped.data, []
    bodies = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE)
    for position in episode.positions[times]:
        data.qpos[:] = position
        mujoco.mj_forward(model, data)
        axis = data.geom_xmat[bodies].reshape(-1, 3, 3)[:, :, 2] * model.geom_size[bodies, 1:2]
        centre = data.geom_xpos[bodies]
        frames.append(np.stack([centre - axis, centre + axis], axis=1)[:, :, [0, 2]])
    env.close()
    return np.array(frames)


def rendered(episode: Episode, times: np.ndarray, size: tuple[int, int] = (120, 160)) -> np.ndarray | None:
    """Frames (F, height, width, 3) uint8 by MuJoCo's renderer; None where it cannot run, or for classic tasks."""
    if not episode.positions.shape[1] or (gl := machine.off_screen()) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "frames.npy"
        np.savez(given, env=episode.family.env_id, task=episode.task, positions=episode.positions[times], size=size)
        command = [sys.executable, "-W", "ignore", "-c", _RENDER, str(given), str(made)]
        try:
            subprocess.run(command, env=os.environ | {"MUJOCO_GL": gl}, capture_output=True, timeout=120)
        except subprocess.TimeoutExpired:
            return None
        return np.load(made) if made.exists() else None


def drawn(episode: Episode, times: np.ndarray, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Frames (F, height, width, 3) uint8 drawn from body positions; the camera follows the robot."""
    frames, dpi = [], 80
    for lines in sticks(episode, times):
        figure, axis = plt.subplots(figsize=(size[1] / dpi, size[0] / dpi), dpi=dpi, layout="none")
        figure.subplots_adjust(0, 0, 1, 1)
        for (x0, z0), (x1, z1) in lines:
            axis.plot([x0, x1], [z0, z1], color="C0", lw=3, solid_capstyle="round")
        middle, height = (lines[..., 0].mean(), (-0.2, 1.6)) if episode.positions.shape[1] else (0.0, (-1.2, 1.2))
        axis.set(xlim=(middle - 1.2, middle + 1.2), ylim=height)
        axis.set_xticks(np.arange(np.ceil(middle - 1.2), middle + 1.2))
        axis.tick_params(labelleft=False, labelbottom=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frames.append(np.array(canvas.buffer_rgba())[..., :3])
        plt.close(figure)
    return np.array(frames)


def film(episodes: dict[str, Episode], poses: int = 6) -> tuple[Figure, str]:
    """Poses at equal times, one row an episode, and how they were made: "rendered" or "drawn"."""
    figure, axes = plt.subplots(len(episodes), poses, figsize=(9.0, 1.45 * len(episodes)), squeeze=False)
    how = "drawn"
    for row, (name, episode) in zip(axes, episodes.items(), strict=True):
        times = np.linspace(0, len(episode.rewards), poses).astype(int)
        frames = rendered(episode, times)
        how, frames = ("drawn", drawn(episode, times)) if frames is None else ("rendered", frames)
        for axis, frame, t in zip(row, frames, times, strict=True):
            axis.imshow(frame)
            axis.set(xticks=[], yticks=[])
            position = f", x = {episode.positions[t, 0]:.1f} m" if episode.positions.shape[1] else ""
            axis.set_title(f"step {t}{position}", fontsize="x-small")
        row[0].set_ylabel(name, fontsize="small")
    return figure, how
