"""Where MuJoCo in the page and MuJoCo in Python part: `python docs/site/agreement.py [STARTS]` prints the docs' table.

Each family's pMeta policies and its meta-policy play an episode in both, from the same initial states, in double
precision; the page's half runs under Node, by the page's own modules (`make theatre` first).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pmeta_course.show import theatre
from pmeta_course.show.video import Episode, record_episode
from safetensors import safe_open
from torch import Tensor

from pmeta_lib.envs.families import family
from pmeta_lib.sac.networks import Shape

ROOT = Path(__file__).resolve().parents[2]


def page(folder: Path, name: str, about: dict, cast: dict, task: int, start: int) -> dict:
    """The page's episode."""
    job = {"family": name, "xml": str(folder / about["xml"]), "task": about["tasks"][task]["values"], "row": task,
           "frameSkip": about["frameSkip"], "start": about["starts"][start], "steps": about["horizon"],
           "weights": str(folder / cast["file"]), "widths": cast["widths"], "tensor": cast["tensor"]}  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    command = ["node", str(ROOT / "docs/site/theatre/replay.mjs"), str(ROOT / "out/npm/node_modules")]
    return json.loads(subprocess.run([*command, str(folder / "job.json")], stdout=subprocess.PIPE, check=True).stdout)


def double_policy(widths: list[int], row: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """`(o,) -> (a,)`: the mode of the policy with one row of weights, as the page computes it, in double precision.

    What rounding changes of an action, contacts multiply from step to step: in single precision (as in training) two
    episodes part within a dozen steps, in double precision Python's and the page's stay together.
    """
    layers = [(w[0].double().numpy(), b[0, 0].double().numpy()) for w, b in Shape(tuple(widths)).layers(row[None])]

    def act(observation: np.ndarray) -> np.ndarray:
        x = np.concatenate([observation, np.zeros(widths[0] - len(observation))])  # a context that is folded in
        for weight, bias in layers[:-1]:
            x = np.maximum(x @ weight + bias, 0.0)
        return np.tanh((x @ layers[-1][0] + layers[-1][1])[: widths[-1] // 2])

    return act


def replay(name: str, member: dict, task: int, start: int, weights: Path = theatre.WEIGHTS) -> Episode:
    """An episode of the page in Python: a member of the casts of family `name`, on a task, from an initial state."""
    place = family(name)
    with safe_open(weights / member["file"], "pt") as stored:
        rows = stored.get_tensor(member["tensor"])
    act = double_policy(member["widths"], rows[min(task, len(rows) - 1)])
    return record_episode(place, place.train_tasks[task], act, start)


def table(starts: int) -> str:
    """Markdown: a row for each family, over its tasks, both policies and `starts` initial states."""
    lines = [
        "| family | episodes | steps until 1e-6 (m, rad) apart | largest gap, first 50 steps | at the end "
        "| returns differ by |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for file, data in theatre.files().items():
            (folder / file).write_bytes(data)
        for name, about in json.loads((folder / "theatre.json").read_bytes())["families"].items():
            parted, early, late, returns = [], [], [], []
            for task, start, who in np.ndindex(len(about["tasks"]), starts, 2):
                cast = about["casts"][("pmeta", "meta")[who]]
                theirs = page(folder, name, about, cast, task, start)
                ours = replay(name, cast, task, start)
                both = min(len(theirs["positions"]), len(ours.positions))
                gap = np.abs(np.array(theirs["positions"][:both]) - ours.positions[:both]).max(1)
                parted.append(int(np.argmax(gap > 1e-6)) or None)
                early.append(gap[:51].max())
                late.append(gap.max())
                returns.append(abs(sum(theirs["rewards"]) / ours.rewards.sum() - 1))
            steps = [p for p in parted if p]
            when = f"{min(steps)} to {max(steps)}" if steps else "never"
            if steps and len(steps) < len(parted):
                when += f" (never in {len(parted) - len(steps)})"
            apart = f"{100 * np.median(returns):.2g} % (median), {100 * max(returns):.2g} % (most)"
            lines.append(f"| {name} | {len(parted)} | {when} | {max(early):.1g} | {max(late):.1g} | {apart} |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
