"""The on-policy training loop and meta-test: collect windows, update, evaluate. They know no algorithm by name.

A run's steps are those of one task, all its parallel episodes counted. Its seconds are CPU seconds of the process,
since what neighbours take from the wall clock is no property of a learner; evaluations are counted in."""

import math
import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.rollout import Sampler
from pmeta_lib.sac.adaptation import Plan, of_way
from pmeta_lib.sac.agent import generator
from pmeta_lib.sac.checkpoint import part
from pmeta_lib.sac.evaluation import Evaluator, curve_rows
from pmeta_lib.sac.memory import check_size
from pmeta_lib.sac.networks import Shape
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.state import Progress
from pmeta_lib.sac.training import Stopped, follow


@dataclass
class Run(Progress):
    """As `pmeta_lib.sac.state.Run`. `state` holds every tensor that training changes, leading axis S."""

    learner: OnPolicy
    shape: Shape
    state: dict[str, Tensor]
    sampler: Sampler
    updates: int = 0

    METRICS = ("seed", "step", "slot", "objective", "kl", "entropy", "cpu_seconds")

    def kept(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        return {f"state.{name}": x for name, x in self.state.items()}, {"updates": self.updates}

    def put_back(self, tensors: dict[str, Tensor], record: dict) -> None:
        self.state, self.updates = part(tensors, "state."), record["updates"]

    def final(self, position: int) -> tuple[dict[str, Tensor], dict]:
        return {n: x[position] for n, x in self.state.items() if x.ndim}, {"actor": tuple(self.shape)}


def start(family: TaskFamily, learner: OnPolicy, settings: Settings, seeds: list[int], threads: int = 1) -> Run:
    """A run at step 0; `UserError` for equal seeds, fewer steps than one iteration has, and sizes beyond the memory."""
    learner.iterations(family, settings)
    kept = learner.steps_per_iteration(family.horizon) * (family.observation_size + 2 * sum(settings.hidden))
    sizes = {"episodes, hidden": kept, "evaluation_episodes": settings.evaluation_episodes * 4096}  # floats a task
    check_size({name: 4 * n * len(seeds) * len(family.train_tasks) / 2**30 for name, n in sizes.items()})
    sampler = Sampler(family, family.train_tasks, seeds, learner.episodes, threads)
    shape = learner.shape(family, settings.hidden)
    fresh = torch.stack([learner.new_policy(shape, generator(seed, "networks")) for seed in seeds])
    state = learner.state(fresh.repeat(1, learner.policies(len(family.train_tasks)), 1))
    return Run(family, learner, settings, list(seeds), sampler.env, {"noise": sampler.noise}, shape, state, sampler)


def train(
    family: TaskFamily, learner: OnPolicy, settings: Settings, seeds: list[int], *, device="cpu", threads=1, **how
) -> Run:
    """Train `learner` on the family's training tasks, all seeds stacked; return the finished run.

    `how`: `folder`, `progress`, `checkpoint_seconds` and `callback` of `pmeta_lib.sac.training.train`. Evaluations come
    after the last whole iteration before each of the settings' evaluation steps. Raises `Stopped` when a policy or an
    inner step diverges; the last good checkpoint is kept."""
    if torch.device(device).type != "cpu":
        raise UserError(f"device is {device}; {learner.name} is bounded by its environments' steps: leave --device out")
    run = start(family, learner, settings, seeds, threads)
    one, last = learner.steps_per_iteration(family.horizon), learner.iterations(family, settings)
    due = {step // one * one for step in settings.evaluation_steps()}
    judge = Judge(family, family.train_tasks, run.seeds, learner.episodes, settings, threads)
    with closing(run.env), closing(judge):
        follow(run, lambda: iterate(run), lambda: evaluate(run, judge), due, last * one, (),
               began=time.process_time(), clock=time.process_time, **how)  # fmt: skip
    return run


def iterate(run: Run) -> None:
    """Windows of all tasks, one update."""
    theta = run.state["policy"]
    new, run.last = run.learner.update(run, theta, run.learner.collect(run, theta))
    for x in (new, *run.last.values(), *run.state.values()):  # a step drawn back hides Adam's moments
        if not torch.isfinite(x).all():
            raise FloatingPointError("the policy's parameters, its losses or Adam's moments are not finite")
    run.state["policy"] = new.detach()
    run.step += run.learner.steps_per_iteration(run.family.horizon)
    run.updates += 1


class Judge(Evaluator):
    """Environments to evaluate in, apart from those of training: what is drawn depends on (seed, step) alone."""

    def __init__(self, family: TaskFamily, tasks: np.ndarray, seeds: list[int], slots: int, settings: Settings,
                 threads: int = 1):  # fmt: skip
        super().__init__(family, tasks, seeds, settings.evaluation_episodes, threads=threads)
        self.settings, self.sampler = settings, Sampler(family, tasks, seeds, slots, threads)

    def close(self) -> None:
        super().close()
        self.sampler.env.close()


def evaluate(run: Run, judge: Judge) -> None:
    """Append to the run's tables the last update's losses and the returns of what the learner deploys: the policy after
    adapting, or before where the preset counts a task's first episode alone. Before it is "meta" where it adapts."""
    path = run.learner.path(judge, run.state["policy"], run.step, run.learner.phases() - 1)
    before, *after = [deployed for deployed, _ in path]
    deployed = after[-1] if after and run.family.preset != "varibad2020" else before
    found = {"deployed": deployed} | ({"meta": before} if after else {})
    for name, returns in found.items():
        run.rows += curve_rows(run.seeds, run.step, name, returns)
    log_std = run.state["policy"][..., -run.family.action_size :]  # the last parameters, whatever the network
    entropy = (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
    last = [*run.last.values()] or [torch.zeros_like(entropy)] * 2
    run.add_losses(torch.stack([*last, entropy], -1), run.seconds)


def adapt(
    family: TaskFamily, learner: OnPolicy, theta: Tensor, settings: Settings, seeds: list[int], plan: Plan, threads=1
) -> pd.DataFrame:
    """What `learner` makes of the trained parameters `theta (S, G, P)` on the family's test tasks.

    "acting" are the first episodes as lived, by policies that sample; "deployed" the policy after so many steps (the
    plan's, and the first three updates of the learner's own), by its mean. Policy gradients sample `episodes` episodes
    before each inner step; RL2 goes on with its memory, and an episode's return is the mean of as many tries."""
    if not len(family.test_tasks):
        raise UserError(f"{family.name} has no test tasks to adapt to; choose another family")
    unit, updates = learner.schedule(plan, family.horizon)
    try:
        with closing(Judge(family, family.test_tasks, seeds, learner.episodes, settings, threads)) as judge:
            path = list(learner.path(judge, theta, 0, updates)) if learner.policies(2) == 1 else []
    except FloatingPointError as error:
        raise Stopped(f"{learner.name} on the test tasks of {family.name}: {error}") from error
    steps = [s for s in sorted({0, unit, 2 * unit, 3 * unit, *plan.steps}) if s // unit < len(path)]
    rows = [row for s in steps for row in curve_rows(seeds, s, "deployed", path[s // unit][0])]
    lived = [tries for _, acting in path if acting is not None for tries in np.moveaxis(acting, 2, 0)]
    for number, tries in enumerate(lived[: plan.episodes], 1):
        rows += curve_rows(seeds, number * family.horizon, "acting", tries)
    return of_way(learner.name, rows)
