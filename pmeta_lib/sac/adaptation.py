"""Meta-test: what each learner does on tasks it has never seen, by the training loop itself.

The tasks of the test set take the place of the training tasks; a learner's own way of going about them is its
`adapt_from`. All ways share the settings, the steps, the initial states of environments and evaluations. The first
episode is acted by the policy that is brought along; from its last step on there are updates, as many a step as in
training. "scratch" is SAC from a fresh network (its first episode is of uniform actions, as every training's), the
reference that anything brought along has to beat; "random" acts uniformly and learns nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.sac.agent import Agent, generator
from pmeta_lib.sac.evaluation import Evaluator
from pmeta_lib.sac.learners import Learner, learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train

CRITICS = ("learned", "fresh")
COLUMNS = ("way", "seed", "step", "episode", "task", "return", "return_std", "episodes")


@dataclass(frozen=True)
class Plan:
    """When the adapting policies are evaluated, and what they bring along. Steps are environment steps a task."""

    steps: tuple[int, ...] = (0, 1_000, 2_000, 5_000, 10_000)
    episodes: int = 3  # k: also after each of the first k episodes, of full length
    critics: str = "learned"  # "fresh": only the actor and the temperature are brought along
    every_way: bool = False  # True: not a learner's own way alone, but plain fine-tuning too

    def __post_init__(self):
        if not self.steps or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in self.steps):
            raise UserError(f"steps are {list(self.steps)}; give whole numbers of 0 or more, e.g. 0,1000,10000")
        if self.episodes < 0:
            raise UserError(f"episodes is {self.episodes}; it must be 0 or more")
        if self.critics not in CRITICS:
            raise UserError(f"critics is {self.critics!r}; give one of {', '.join(CRITICS)}")
        if max(self.steps) == 0 and self.episodes == 0:
            raise UserError("steps are all 0 and so is episodes: nothing would be adapted")

    def at(self, horizon: int) -> dict[int, int | None]:
        """Steps to evaluate after -> how many episodes of `horizon` steps that is, if it is one of 0..k."""
        after = {k * horizon: k for k in range(self.episodes + 1)}
        return dict(sorted({s: after.get(s) for s in (0, *self.steps, *after)}.items()))

    def settings(self, base: Settings, horizon: int) -> Settings:
        """The settings of the adapting runs: those of `base`, for as many steps as the plan has."""
        steps = max(self.at(horizon))
        return replace(base, steps=steps, warm_up=min(horizon, steps) - 1, evaluations=1, envs_per_task=1)


def adapt(
    family: TaskFamily, trained: Learner, agent: Agent, tasks: int, settings: Settings, seeds: list[int], plan: Plan,
    **how,
) -> pd.DataFrame:  # fmt: skip
    """Adapt `agent`, trained by `trained` on `tasks` tasks, to the family's test tasks: a table with `COLUMNS`.

    `agent` holds one seed for each of `seeds`, stacked; `settings` are the adapting runs' (`Plan.settings`). `how` is
    passed to `train`; with a `folder` a killed call goes on where it was. A learner that brings nothing along has no
    row: its way is "scratch", one of `references`.
    """
    ways = trained.adapt_from(agent, tasks)
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for way, (who, start) in list(ways.items())[: None if plan.every_way else 1]:
        if plan.critics == "fresh":
            start = {name: x for name, x in start.items() if name != "critic"}
        parts.append(_follow(family, way, who, start, settings, seeds, plan, **how))
    return pd.concat([p for p in parts if len(p)] or parts, ignore_index=True)


def references(family: TaskFamily, settings: Settings, seeds: list[int], plan: Plan, **how) -> pd.DataFrame:
    """The ways "scratch" and "random" on the family's test tasks, as `adapt`; no trained agent enters."""
    scratch = _follow(family, "scratch", learner("independent"), None, settings, seeds, plan, **how)
    random = random_returns(family, family.test_tasks, seeds, settings.evaluation_episodes)
    return pd.concat([scratch, random], ignore_index=True)


def _follow(
    family: TaskFamily, way: str, who: Learner, start: dict[str, Tensor] | None, settings: Settings, seeds: list[int],
    plan: Plan, folder: Path | None = None, **how,
) -> pd.DataFrame:  # fmt: skip
    """One run of `who` from `start` on the test tasks, and the returns of what it deploys."""
    place, at = replace(family, train_tasks=family.test_tasks), plan.at(family.horizon)
    where = folder / way.replace(" + ", "-") if folder is not None else None
    run = train(place, who, settings, seeds, folder=where, initial=start, evaluate_at=set(at), **how)
    curve = run.curve[run.curve["policy"] == "deployed"]
    return curve.assign(way=way, episode=curve["step"].map(at).astype("Int64"))[list(COLUMNS)]


def random_returns(family: TaskFamily, tasks: np.ndarray, seeds: list[int], episodes: int) -> pd.DataFrame:
    """The returns of uniformly random actions on `tasks (M, k)`, with `COLUMNS`: the way "random" after 0 steps."""
    streams = [generator(seed, "evaluation") for seed in seeds]

    def uniform(observation: Tensor) -> Tensor:
        size = (observation.shape[1], family.action_size)
        return torch.stack([2.0 * torch.rand(size, generator=g) - 1.0 for g in streams])

    evaluator = Evaluator(family, tasks, seeds, episodes)
    returns = evaluator.returns(uniform, 0)
    evaluator.close()
    rows = [("random", seed, 0, 0, i, float(x.mean()), float(x.std()), len(x))
            for seed, of_seed in zip(seeds, returns, strict=True) for i, x in enumerate(of_seed)]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"episode": "Int64"})
