"""Make `conflict.parquet` again, the deep half of claim C1: `python data/results/conflict.py`.

Four point robots whose goals spread over an arc of the unit circle, h = 0 (the same goal) to h = 1 (the half circle
that the family point-robot draws from). Independent, joint and MAML are trained on each arc with the settings that
tuning chose (`data/tuning/deep/chosen.json`), five seeds stacked. `deployed` is a run's return (the mean over its tasks
and the last quarter of its evaluations), normalised on the same arc: 0 the random policy, 1 independent SAC's mean.

`conflict` is the share of task pairs whose return gradients at a run's final policy point against each other (cosine
below 0). The robot's dynamics are known and differentiable, so that these are exact gradients of the return over 64
episodes of common noise, not estimates by a critic; they are taken where one policy serves all tasks, from `joint`.
`cancellation` is 1 - norm of the mean of these gradients / mean of their norms: 0 if they agree, 1 if nothing is left.
The runs live in `out/conflict/`: a killed command goes on where it was.

`… conflict.py shared` makes `conflict_shared.parquet` instead, which no claim reads: MAML with the critics of all tasks
in one, as joint learning has them, otherwise as above, on the scale of the stored table.

`… conflict.py on-policy` makes `conflict_on_policy.parquet`, which the claim reads: MAML by policy gradients and its
control, at the two ends of the arc and with the budget of the on-policy sweep: a million steps in all.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pmeta_course.reproduction.statistics import last_quarter
from torch import Tensor

from pmeta_lib.envs.classic import STEP
from pmeta_lib.envs.families import TaskFamily, family
from pmeta_lib.experiments.learners import learner, trainer
from pmeta_lib.files import json_text, provenance, write_table
from pmeta_lib.sac.agent import generator
from pmeta_lib.sac.evaluation import Evaluator
from pmeta_lib.sac.networks import Shape, forward, gaussian
from pmeta_lib.sac.settings import Settings

TABLE = Path(__file__).resolve().with_suffix(".parquet")
CHOSEN = TABLE.parents[1] / "tuning" / "deep" / "chosen.json"
SPREADS, TASKS, SEEDS = (0.0, 0.25, 0.5, 0.75, 1.0), 4, [0, 1, 2, 3, 4]
BUDGET = {"steps": 4000, "warm_up": 200, "hidden": (64, 64), "batch_size": 64, "evaluations": 40}


ON_POLICY = {"steps": 250_000, "warm_up": 0, "hidden": (64, 64), "learning_rate": 1e-3, "evaluations": 20}


def arc(h: float) -> TaskFamily:
    """Point robots with goals evenly on an arc of h times 180 degrees around straight up."""
    angles = np.pi / 2 * (1 + h * np.linspace(-1, 1, TASKS))
    return replace(family("point-robot", train=TASKS), train_tasks=np.stack((np.cos(angles), np.sin(angles)), 1))


def return_gradients(shape: Shape, actor: Tensor, goals: Tensor, horizon: int, noise: Tensor) -> Tensor:
    """(N, P): the gradient of the mean return of the policy `actor (P,)` towards each of `goals (N, 2)`, through the
    dynamics; `noise (horizon, M, 2)` drives M episodes, the same ones for every goal."""
    found = []
    for goal in goals:
        flat, total = actor.clone().requires_grad_(), 0.0
        position = torch.zeros(1, noise.shape[1], 2)
        for e in noise:
            mean, log_std = gaussian(forward(shape, flat.unsqueeze(0), position))
            position = position + STEP * torch.tanh(mean + log_std.exp() * e)
            total = total - (position - goal).norm(dim=-1).mean()
        found.append(torch.autograd.grad(total, flat)[0])
    return torch.stack(found)


def conflict(gradients: Tensor) -> float:
    """The share of pairs of rows with a negative inner product."""
    above = torch.triu_indices(len(gradients), len(gradients), 1)
    return float(((gradients @ gradients.T)[above[0], above[1]] < 0).double().mean())


def cancellation(gradients: Tensor) -> float:
    """1 - norm of the mean row / mean norm of the rows."""
    return float(1 - gradients.mean(0).norm() / gradients.norm(dim=1).mean())


def random_return(place: TaskFamily) -> float:
    evaluator, stream = Evaluator(place, place.train_tasks, [0], 100), generator(0, "learner")
    found = evaluator.returns(lambda x: torch.rand(1, x.shape[1], 2, generator=stream) * 2 - 1, 0).mean()
    evaluator.close()
    return float(found)


def trained(name: str, h: float, folder: str, **options):
    """The stacked run of a learner on the arc h, and its final return for every seed."""
    chosen = json.loads(CHOSEN.read_text())["chosen"].get(name)  # nothing for the on-policy learners
    made = learner(name, **((chosen["options"] if chosen else {}) | options))
    settings = Settings(**(BUDGET | chosen["settings"] if chosen else ON_POLICY))
    run = trainer(made)(arc(h), made, settings, SEEDS, folder=Path("out/conflict") / f"{folder}-{h}", progress=True)
    late = run.curve[last_quarter(run.curve["step"]) & (run.curve["policy"] == "deployed")]
    return run, late.groupby("seed")["return"].mean()


def rows(h: float) -> list[dict]:
    """One row a learner and seed on the arc h."""
    place, returns, rates = arc(h), {}, {}
    for name in ("independent", "joint", "maml"):
        run, returns[name] = trained(name, h, name)
        if name == "joint":
            for s, seed in enumerate(SEEDS):
                noise = torch.randn(place.horizon, 64, 2, generator=generator(seed, "learner"))
                goals = torch.tensor(place.train_tasks, dtype=torch.float32)
                found = return_gradients(run.agent.actor_shape, run.agent.actor[s, 0], goals, place.horizon, noise)
                rates[seed] = {"conflict": conflict(found), "cancellation": cancellation(found)}
    made = scaled(returns, h, random_return(place), returns["independent"].mean())
    none = dict.fromkeys(("conflict", "cancellation"), np.nan)
    return [row | (rates[row["seed"]] if row["learner"] == "joint" else none) for row in made]


def scaled(found: dict[str, pd.Series], h: float, zero: float, one: float) -> list[dict]:
    """One row a learner and seed, from its returns by seed on the arc h; the ends of the scale are given."""
    return [{"h": h, "learner": name, "seed": seed, "return": value, "random": zero,
             "deployed": (value - zero) / (one - zero)}
            for name, returns in found.items() for seed, value in returns.items()]  # fmt: skip


def shared_rows(h: float) -> list[dict]:
    """One row a seed of MAML with shared critics; the ends of the scale are those of the stored table."""
    stored = pd.read_parquet(TABLE)
    stored = stored[stored["h"] == h]
    zero, one = stored["random"].mean(), stored.loc[stored["learner"] == "independent", "return"].mean()
    return scaled({"maml, shared critics": trained("maml", h, "maml-shared", shared_critics=True)[1]}, h, zero, one)


def on_policy_rows(h: float) -> list[dict]:
    """One row a seed of MAML by policy gradients and of its control, learning alone by policy gradients."""
    found = {name: trained(name, h, name)[1] for name in ("pg-independent", "pg-maml")}
    return scaled(found, h, random_return(arc(h)), found["pg-independent"].mean())


WAYS = {  # by the word of the command: which table, by what, on which arcs, with what budget
    "": (TABLE, rows, SPREADS, BUDGET),
    "shared": (TABLE.with_stem("conflict_shared"), shared_rows, SPREADS, BUDGET),
    "on-policy": (TABLE.with_stem("conflict_on_policy"), on_policy_rows, SPREADS[:: len(SPREADS) - 1], ON_POLICY),
}

if __name__ == "__main__":
    word = " ".join(sys.argv[1:])
    if word not in WAYS:
        raise SystemExit(f"usage: python data/results/conflict.py [shared | on-policy], not {word!r}")
    torch.set_num_threads(1)
    out, make, spreads, budget = WAYS[word]
    table = pd.DataFrame([row for h in spreads for row in make(h)])
    record = {"command": f"python data/results/conflict.py {word}".strip(), "budget": budget, "tasks": TASKS,
              **provenance()}  # fmt: skip
    write_table(out, table)  # after asking for the commit, which a changed table would call dirty
    out.with_suffix(".json").write_text(json_text(record, indent=1) + "\n")
    print(table.groupby(["learner", "h"]).mean(numeric_only=True).drop(columns="seed").round(3).to_string())
