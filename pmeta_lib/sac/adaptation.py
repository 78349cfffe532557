"""Meta-test: what each learner does on tasks it has never seen, by the training loop itself.

The test tasks take the place of the training tasks; a learner's own way of going about them is its `adapt_from`. All
ways share the settings, the steps, the initial states of environments and evaluations, and one environment a task,
however many the training had: an episode can only teach the next one if it comes before it. The first episode is acted
by the policy that is brought along; from its last step on there are updates. Critics and temperature are fresh, unless
`Plan.critics` says otherwise: those that were trained believe in other tasks. "scratch" is SAC from a fresh network
(its first episode is of uniform actions, as every training's), which anything brought along has to beat; "random" acts
uniformly and learns nothing.

A row's policy is "acting" for each of the first episodes as it was lived, exploration included (the few-shot endpoint
is their mean), or "deployed": what the learner would deploy after so many steps, by its mode, on episodes apart."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.options import Whole, options
from pmeta_lib.sac.agent import Agent, generator
from pmeta_lib.sac.evaluation import Evaluator, curve_rows
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.replay import split
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.state import Run
from pmeta_lib.sac.training import train

Critics = Literal["fresh", "learned"]
CRITICS = get_args(Critics)
COLUMNS = ("way", "seed", "step", "policy", "episode", "task", "return", "return_std", "episodes")


@options
class Plan:
    """When the adapting policies are evaluated, and what they bring along. Steps are environment steps a task."""

    steps: Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)] = (0, 1_000, 2_000, 5_000, 10_000)
    episodes: Whole = 20  # k: the first k episodes are recorded as they are lived
    critics: Critics = "fresh"  # "learned": critics and temperature are brought along as well as the actor
    every_way: bool = False  # True: not a learner's own way alone, but plain fine-tuning too

    def __post_init__(self):
        if max(self.steps) == 0 and self.episodes == 0:
            raise UserError("steps are all 0 and so is episodes: nothing would be adapted")

    def settings(self, base: Settings, horizon: int) -> Settings:
        """The settings of the adapting runs: those of `base`, for as many steps as the plan has."""
        steps = max(*self.steps, self.episodes * horizon)
        return replace(base, steps=steps, warm_up=min(horizon, steps) - 1, evaluations=1, envs_per_task=1,
                       replay_capacity=0)  # fmt: skip


def adapt(
    family: TaskFamily, trained: Learner, agent: Agent, tasks: int, settings: Settings, seeds: list[int], plan: Plan,
    **how,
) -> pd.DataFrame:  # fmt: skip
    """Adapt `agent`, trained by `trained` on `tasks` tasks, to the family's test tasks: a table with `COLUMNS`.

    `agent` holds one seed for each of `seeds`, stacked; `settings` are the adapting runs' (`Plan.settings`). `how` is
    passed to `train`; with a `folder` a killed call goes on where it was. A learner that brings nothing along has no
    row: its way is "scratch", one of `references`."""
    left = {"critic", "log_alpha"} if plan.critics == "fresh" else set()
    parts = []
    for way, (adapter, start) in list(trained.adapt_from(agent, tasks).items())[: None if plan.every_way else 1]:
        brought = {name: x for name, x in start.items() if name not in left}
        parts.append(_follow(family, way, adapter.on(family), brought, settings, seeds, plan, **how))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def references(family: TaskFamily, settings: Settings, seeds: list[int], plan: Plan, **how) -> pd.DataFrame:
    """The ways "scratch" and "random" on the family's test tasks, as `adapt`; no trained agent enters."""
    scratch = _follow(family, "scratch", learner("independent"), None, settings, seeds, plan, **how)
    random = random_returns(family, family.test_tasks, seeds, settings.evaluation_episodes)
    return pd.concat([scratch, random], ignore_index=True)


def _follow(
    family: TaskFamily, way: str, adapter: Learner, start: dict[str, Tensor] | None, settings: Settings,
    seeds: list[int], plan: Plan, folder: Path | None = None, **how,
) -> pd.DataFrame:  # fmt: skip
    """One run of `adapter` from `start` on the test tasks: its first episodes, and the returns of what it deploys."""
    on_test = replace(family, train_tasks=family.test_tasks)
    where = folder / way.replace(" + ", "-") if folder else None
    run = train(on_test, adapter, settings, seeds, folder=where, initial=start, evaluate_at={0, *plan.steps}, **how)
    acting = [
        (seed, end, "acting", task, total, 0.0, 1)
        for seed, of_seed in zip(seeds, run.replay.rows, strict=True)
        for task, transitions in enumerate(of_seed)
        for end, total in lived(transitions, run.replay.sizes, family.horizon, plan.episodes)
    ]
    return of_way(way, [row for row in run.rows if row[2] == "deployed"] + acting)


def of_way(way: str, rows: list[tuple]) -> pd.DataFrame:
    """A table with `COLUMNS` from rows of a curve (`state.CURVE`); those "acting" are numbered as a task's episodes."""
    table = pd.DataFrame(rows, columns=list(Run.CURVE)).assign(way=way)
    number = table.groupby(["seed", "task", "policy"]).cumcount() + 1
    table["episode"] = number.where(table["policy"] == "acting").astype("Int64")
    return table[list(COLUMNS)]


def lived(transitions: Tensor, sizes: tuple[int, int], horizon: int, most: int) -> list[tuple[int, float]]:
    """(step after which it ended, return) of the first `most` whole episodes among one slot's `transitions (T, ·)`, in
    the order in which they were stored; an episode ends where it terminates, or after `horizon` steps."""
    rows = split(transitions, *sizes)
    reward, terminated = rows.reward.double().cpu().numpy(), rows.terminated.cpu().numpy() > 0
    found, begin = [], 0
    for end, early in enumerate(terminated, 1):
        if len(found) < most and (early or end - begin == horizon):
            found.append((end, float(reward[begin:end].sum())))
            begin = end
    return found


def random_returns(family: TaskFamily, tasks: np.ndarray, seeds: list[int], episodes: int) -> pd.DataFrame:
    """The returns of uniformly random actions on `tasks (M, k)`, with `COLUMNS`: the way "random" after 0 steps."""
    streams = [generator(seed, "evaluation") for seed in seeds]

    def uniform(observation: Tensor) -> Tensor:
        size = (observation.shape[1], family.action_size)
        return torch.stack([2.0 * torch.rand(size, generator=g) - 1.0 for g in streams])

    with closing(Evaluator(family, tasks, seeds, episodes)) as evaluator:
        return of_way("random", curve_rows(seeds, 0, "deployed", evaluator.returns(uniform, 0)))
