"""What does the spring do, without the sharing? pMeta with an anchor of its own for every task, beside the shared one.

`python data/results/spring.py [FOLDER]` trains (resumable in FOLDER, `out/spring`; a quarter of an hour of one core a
level of heterogeneity) and writes `spring.parquet` beside itself: a row a family, h, lambda, amount of data and seed,
as in `map.parquet`, whose settings and seeds it takes. Each actor is tied to its own slow copy, which is put on it
after every K updates: all that the spring does by itself, such as shortening the actor's steps, and nothing of another
task. The other side, the shared anchor at the same lambda, is in `map.parquet`. `--judge` prints the differences alone.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from map import TASKS, read_stages
from pmeta_course.reproduction.statistics import difference_interval
from torch import Tensor

from pmeta_lib.envs.families import family
from pmeta_lib.experiments.sweep_spec import load
from pmeta_lib.files import write_table
from pmeta_lib.options import options
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.learners.pmeta import PMeta
from pmeta_lib.sac.training import train

HERE = Path(__file__).resolve().parent
LEVELS, FAMILY = (0.25, 1.0), "pendulum-params"


@options
class OwnAnchor(PMeta):
    """pMeta whose "mean over tasks" is each task alone: theta has a row a task."""

    def start(self, agent: Agent, tasks: int) -> None:
        super().start(agent, tasks)
        agent.extra["theta"] = agent.actor.clone()  # (S, N, P)

    def _mean(self, agent: Agent, x: Tensor) -> Tensor:
        return x


def trained(folder: Path) -> pd.DataFrame:
    """All runs, a row a level, lambda, amount of data and seed."""
    plan, parts = load(HERE.parent / "sweeps" / "map.toml", "pendulum"), []
    ours = [spec for spec in plan.runs if spec.learner == "pmeta" and not spec.options["critic_lam"]]
    for h in LEVELS:
        specs = [spec for spec in ours if spec.family == f"{FAMILY}@{h:g}"]
        for lam in sorted({spec.options["lam"] for spec in specs}):
            seeds = [spec.seed for spec in specs if spec.options["lam"] == lam]
            run = train(family(specs[0].family, train=TASKS), OwnAnchor(lam=lam), specs[0].settings, seeds,
                        folder=folder / f"h{h:g}_lam{lam:g}", progress=True)  # fmt: skip
            rows = pd.DataFrame([row[:5] for row in run.rows], columns=["seed", "step", "policy", "task", "return"])
            rows = rows[rows["policy"] == "deployed"].groupby(["seed", "step"], as_index=False)["return"].mean()
            parts.append(read_stages(rows, ["seed"]).assign(family=FAMILY, h=h, lam=lam))
            print(f"h = {h:g}, lambda = {lam:g}: {rows['return'].tail(len(seeds)).mean():.1f} at the end", flush=True)
    return pd.concat(parts, ignore_index=True)[["family", "h", "lam", "steps", "seed", "return"]]


def judged() -> pd.DataFrame:
    """A row a level, lambda and amount of data: own anchor minus none (independent), shared anchor minus own."""
    own, shared, out = pd.read_parquet(HERE / "spring.parquet"), pd.read_parquet(HERE / "map.parquet"), []
    shared = shared[(shared["family"] == FAMILY) & (shared["policy"] == "deployed")]
    for (h, lam, steps), cell in own.groupby(["h", "lam", "steps"]):
        there = shared[(shared["h"] == h) & (shared["steps"] == steps)]
        alone, tied = (there.loc[there["learner"] == n, "return"] for n in ("independent", f"pmeta lam={lam:g}"))
        row = {"h": h, "lambda": lam, "steps": steps}
        for name, pair in (("own - alone", (cell["return"], alone)), ("shared - own", (tied, cell["return"]))):
            value, low, high = difference_interval(*(x.to_numpy() for x in pair))
            row |= {name: value, f"{name}, low": low, f"{name}, high": high}
        out.append(row)
    return pd.DataFrame(out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--judge" not in sys.argv:
        write_table(HERE / "spring.parquet", trained(Path((sys.argv[1:] or ["out/spring"])[0])))
    print(judged().round(2).to_string())
