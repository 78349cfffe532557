"""Make the GIFs of this folder again, from the stored weights: `python data/videos/make.py [FAMILY ...]` (a minute).

Robots of MuJoCo: one episode a training task, each by its own personalized policy, stacked; every fourth (cheetah),
eighth (ant) or twelfth of at most 200 steps is shown, at the speed of cheetah and ant (0.05 s a step), hopper and
walker (0.008 s) more than six times slower. Rendered by MuJoCo where it can render off-screen, else drawn.

point-robot: one trial of RL2, without noise, on each of three goals that were in no training set, seen from above.
"""

import json
import sys
from pathlib import Path

import gymnasium
import imageio.v3 as imageio
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from pmeta_course.show import video
from safetensors import safe_open

from pmeta_lib.envs.families import family
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.figures import COLOURS, use_style
from pmeta_lib.policy_gradient.rl2 import step
from pmeta_lib.sac.evaluation import to_env
from pmeta_lib.sac.networks import Shape

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parent / "results" / "deep"
SIZE = (100, 200)  # height and width of a frame, in pixels
FILMS = {"half-cheetah-dir": 4, "ant-dir": 8, "hopper-params": 12, "walker2d-params": 12}  # steps between frames
SHADES, SEED = 32, 0  # colours of an episode's frames; of the state it starts from, and of the run
TRIAL, FPS, PAUSES = "point-robot", 8, (8, 20)  # frames a second, and frames that an episode's, the trial's end stays
DEGREES = (150, 90, 30)  # filmed are the held-out goals nearest to these angles


def gif(frames: np.ndarray, fps: float) -> bytes:
    """An endless GIF of the frames."""
    return imageio.imwrite("<bytes>", frames, extension=".gif", duration=round(1000 / fps), loop=0)


def captioned(frames: np.ndarray, episode: video.Episode, times: np.ndarray, label: str, dt: float) -> np.ndarray:
    """The frames (F, h, w, 3) with task, time and place below, in the same few colours: a smaller file."""
    palette, out = Image.fromarray(frames[0]).quantize(SHADES, Image.Quantize.FASTOCTREE), []
    for frame, t in zip(frames, times, strict=True):
        image = Image.new("RGB", (SIZE[1], SIZE[0] + 14), "white")
        image.paste(Image.fromarray(frame))
        words = f"{label}   {dt * t:.1f} s   x = {episode.positions[t, 0]:+.1f} m"
        ImageDraw.Draw(image).text((4, SIZE[0] + 1), words, fill="black")
        out.append(np.asarray(image.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")))
    return np.array(out)


def film(name: str) -> bytes:
    """The GIF of the family `name` from `<name>_pmeta_seed0.safetensors`."""
    tasks, rows = family(name), []
    with safe_open(CHECKPOINTS / f"{name.replace('-', '_')}_pmeta_seed0.safetensors", "pt") as stored:
        shape, actors = Shape(tuple(json.loads(stored.metadata()["actor"]))), stored.get_tensor("actor")
    dt = gymnasium.make(f"pmeta_lib.envs:{tasks.env_id}", task=tasks.train_tasks[0]).unwrapped.dt
    for task, actor in zip(tasks.train_tasks, actors):  # a run may have had the first tasks only
        episode = video.record_episode(tasks, task, video.actor_policy(shape, actor), SEED)
        times = np.arange(0, len(episode.rewards) + 1, FILMS[name])
        frames = video.rendered(episode, times, SIZE)
        frames = video.drawn(episode, times, SIZE) if frames is None else frames
        label = tasks.describe(task) if tasks.train_tasks.shape[1] == 1 else f"task {len(rows)}"
        rows.append(captioned(frames, episode, times, label, dt))
        end = episode.positions[-1, 0]
        print(f"{tasks.describe(task)}: return {episode.rewards.sum():.1f}, at the end x = {end:+.1f} m")
    longest = max(map(len, rows))
    still = [np.concatenate([r, np.repeat(r[-1:], longest - len(r), axis=0)]) for r in rows]  # after a fall, the fallen
    return gif(np.concatenate(still, axis=1), fps=20 / FILMS[name])


def stored_trial() -> tuple[RunSpec, torch.Tensor]:
    """The run whose trial is filmed, and its policy (P,)."""
    path = CHECKPOINTS / f"{TRIAL.replace('-', '_')}_rl2_seed{SEED}.safetensors"
    spec = json.loads(path.with_suffix(".json").read_text())["spec"]
    with safe_open(path, "pt") as stored:
        return RunSpec.from_json(spec), stored.get_tensor("policy")[0]


def goals(tests: np.ndarray) -> np.ndarray:
    """Of the goals (N, 2), those nearest to the angles of the film, from left to right."""
    wanted = np.radians(DEGREES)
    away = np.hypot(*(tests[:, None] - np.stack((np.cos(wanted), np.sin(wanted)), axis=1)).transpose(2, 0, 1))
    return tests[away.argmin(0)]


def trial(spec: RunSpec, policy: torch.Tensor, task: np.ndarray) -> list[video.Episode]:
    """The episodes of one trial of RL2 on `task`, without noise: one memory for all of them, empty at the beginning."""
    tasks, learner, episodes = spec.make_family(), spec.make_learner(), []
    env = gymnasium.make(f"pmeta_lib.envs:{tasks.env_id}", task=task, preset=tasks.preset)
    shape, theta = learner.shape(tasks, spec.settings.hidden), policy.view(1, -1)
    memory, done = torch.zeros(1, 1, shape.hidden), torch.zeros(1, 1, shape.actions)
    paid, begins = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for _ in range(learner.trial_episodes):
        path, rewards = [env.reset(seed=SEED)[0]], []
        while not rewards or not begins:
            place = torch.from_numpy(path[-1]).float().view(1, 1, -1)
            out, memory = step(shape, theta, torch.cat((place, done, paid, begins), -1), memory)
            done = out[..., :-1].clamp(-1.0, 1.0)
            observation, reward, terminated, truncated, _ = env.step(to_env(tasks, done)[0].astype(np.float32))
            path.append(observation)
            rewards.append(reward)
            paid, begins = torch.full((1, 1, 1), float(reward)), torch.full((1, 1, 1), float(terminated or truncated))
        episodes.append(video.Episode(tasks, task, np.array(path), np.zeros((len(path), 0)), np.array(rewards)))
    env.close()
    return episodes


def seen_from_above(trials: list[list[video.Episode]], e: int, t: int) -> Figure:
    """A picture of every trial after `t` steps of episode `e` (from 0), side by side; all paths fit into it."""
    figure, axes = plt.subplots(1, len(trials), figsize=(9, 2.9), sharex=True, sharey=True)
    paths, arc = np.concatenate([e.observations for episodes in trials for e in episodes]), np.linspace(0, np.pi, 100)
    looks = [(COLOURS["joint"], "--"), (COLOURS["pearl"], "-")]
    looks += [(COLOURS[name], "-.") for name in ("independent", "pmeta", "reptile")]
    for axis, episodes in zip(axes, trials, strict=True):
        axis.plot(np.cos(arc), np.sin(arc), color="0.8", lw=3, label="possible goals")
        axis.plot(*episodes[0].task, "*", color="gold", mec="black", ms=16, ls="", label="goal, hidden from the robot")
        for k, episode in enumerate(episodes):
            colour, line = looks[k % len(looks)]
            path = episode.observations[: 0 if k > e else t + 1 if k == e else None]
            axis.plot(*path.T, color=colour, ls=line, lw=2.5, label=f"episode {k + 1}")
            if k == e:
                axis.plot(*path[-1], "o", color=colour, mec="black", ms=9)
        axis.set_title(f"episode {e + 1}, step {t}: return {episodes[e].rewards[:t].sum():.1f}", fontsize="medium")
        axis.set(xlabel="x", aspect="equal")
    side, low, high = np.abs(paths[:, 0]).max() + 0.1, paths[:, 1].min() - 0.1, paths[:, 1].max() + 0.1
    side, low, high = max(1.2, side), min(-0.3, low), max(1.2, high)
    axes[0].set(xlim=(-side, side), ylim=(low, high), xticks=(-1, 0, 1), yticks=(0, 1))
    axes[0].set_ylabel("y")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize="small")
    return figure


def trial_film() -> bytes:
    """The GIF of RL2's trials, from the weights of its run: every step, a pause where an episode ends."""
    use_style()
    spec, policy = stored_trial()
    trials = [trial(spec, policy, task) for task in goals(spec.make_family().test_tasks)]
    for episodes in trials:
        returns = ", ".join(f"{e.rewards.sum():.2f}" for e in episodes)
        print(f"{episodes[0].family.describe(episodes[0].task)}: returns of the trial's episodes {returns}")
    frames = []
    for e, episode in enumerate(trials[0]):
        for t in range(len(episode.rewards) + 1):
            figure = seen_from_above(trials, e, t)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            frames.append(Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]))
            plt.close(figure)
        frames += frames[-1:] * PAUSES[e == len(trials[0]) - 1]
    palette = frames[-1].quantize(SHADES, Image.Quantize.FASTOCTREE)  # the last one has all colours
    few = [np.asarray(f.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")) for f in frames]
    return gif(np.array(few), fps=FPS)


if __name__ == "__main__":
    films = {name: f"{name}_pmeta" for name in FILMS} | {TRIAL: f"{TRIAL}_rl2"}
    if unknown := set(sys.argv[1:]) - set(films):
        raise SystemExit(f"no film of {', '.join(sorted(unknown))}; choose from {', '.join(films)}")
    for name in sys.argv[1:] or films:
        path = HERE / f"{films[name].replace('-', '_')}.gif"
        path.write_bytes(trial_film() if name == TRIAL else film(name))
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
