"""The settings that all tabular learners share, checked before a run, and what a diverging one is told."""

from dataclasses import dataclass, fields, replace

import numpy as np

from pmeta_lib.files import UserError
from pmeta_lib.options import Aggregate, Count, NotNegative, Positive
from pmeta_lib.tabular.mdp import TaskBatch, check, check_generator, check_tasks
from pmeta_lib.tabular.policies import Oracle, exact

LARGEST = 1e8  # beyond any sense for softmax parameters (exp(-745) is already 0): such a run has diverged


@dataclass(frozen=True)
class Settings:
    """The keywords that all learners share, and those of `algorithm.pmeta`."""

    rounds: Count  # T
    lam: NotNegative = 0.0  # weight of `(lam/2) ||theta_i - theta||^2`, in return per squared parameter
    eta: NotNegative = 1.0  # step of the local copies w_i on the envelope; of baselines, the outer step
    inner_steps: Count = 1  # K
    inner_step_size: Positive = 1.0  # s
    local_steps: Count = 1  # R
    beta: NotNegative = 1.0  # aggregation
    warm_start: bool = True  # keep y_i from the round before, else restart it at w in each local step
    tasks_per_round: Count | None = None  # n; None means all
    # The mean of the meta step runs over the "drawn" tasks, or over "all", absent ones with the y_i of the round in
    # which they were last drawn. With "all", Phi falls in every round whoever is drawn (T5).
    aggregate: Aggregate = "drawn"
    tau: NotNegative = 0.0  # weight of the log barrier
    generator: np.random.Generator | None = None  # draws the tasks of a round, and orders pcgrad's projections
    oracle: Oracle = exact  # gradients; `exact`, or one made by `sampling.sampled`
    trace: bool = False  # also keep theta and personal after each round

    def checked(self, tasks: TaskBatch) -> "Settings":
        """Itself, after refusing what cannot work on these tasks."""
        check_tasks(tasks)
        for field in fields(self):
            if field.name != "generator":
                check(field.name, getattr(self, field.name), field.type)
        n = len(tasks) if self.tasks_per_round is None else int(self.tasks_per_round)
        if n > len(tasks):
            raise UserError(f"tasks_per_round is {n}; it must be from 1 to the number of tasks, {len(tasks)}.")
        if n < len(tasks) or self.generator is not None:
            check_generator("generator", self.generator)
        return replace(self, tasks_per_round=n)


def escaped(y: np.ndarray) -> np.ndarray:
    """(n,) whether a task's parameters y (n, S, A) have left the numbers that make sense."""
    return ~(np.abs(y).max((-2, -1)) <= LARGEST)  # NaN counts


def cause(s: Settings) -> str:
    """Why a run with these settings diverged, and the remedy."""
    pull = s.inner_step_size * s.lam
    if pull >= 2:
        return f"inner_step_size * lam = {pull:g} is 2 or more; use inner_step_size < {2 / s.lam:g}"
    if s.eta * s.lam * s.beta >= 2:
        return f"eta * lam * beta = {s.eta * s.lam * s.beta:g} is 2 or more; use eta < {2 / (s.lam * s.beta):g}"
    return f"inner_step_size = {s.inner_step_size:g} or eta = {s.eta:g} is too large; divide it by 10"
