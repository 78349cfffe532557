"""Make the GIFs of this folder again, from the stored weights: `python data/videos/make.py [FAMILY ...]` (a minute).

One episode a training task, each by its own personalized policy, stacked; every fourth (cheetah), eighth (ant) or
twelfth of at most 200 steps is shown, at the speed of cheetah and ant (0.05 s a step), hopper and walker (0.008 s)
more than six times slower. Rendered by MuJoCo where it can render off-screen, else drawn.
"""

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
from PIL import Image, ImageDraw
from pmeta_course.show import video
from safetensors import safe_open

from pmeta_lib.envs.families import family
from pmeta_lib.sac.networks import Shape

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parent / "results" / "deep"
SIZE = (100, 200)  # height and width of a frame, in pixels
FILMS = {"half-cheetah-dir": 4, "ant-dir": 8, "hopper-params": 12, "walker2d-params": 12}  # steps between frames
COLOURS, SEED = 40, 0  # of an episode's frames; of the state it starts from


def captioned(frames: np.ndarray, episode: video.Episode, times: np.ndarray, label: str, dt: float) -> np.ndarray:
    """The frames (F, h, w, 3) with task, time and place below, in the same few colours: a smaller file."""
    palette, out = Image.fromarray(frames[0]).quantize(COLOURS, Image.Quantize.FASTOCTREE), []
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
    return video.gif(np.concatenate(still, axis=1), fps=20 / FILMS[name])


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(FILMS):
        raise SystemExit(f"no film of {', '.join(sorted(unknown))}; choose from {', '.join(FILMS)}")
    for name in sys.argv[1:] or FILMS:
        path = HERE / f"{name.replace('-', '_')}_pmeta.gif"
        path.write_bytes(film(name))
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
