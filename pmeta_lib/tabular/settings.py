"""The settings that all tabular learners share, checked before a run, and what a diverging one is told."""

from dataclasses import dataclass, replace

import numpy as np

from pmeta_lib.files import UserError, known
from pmeta_lib.tabular.mdp import TaskBatch, check_generator, check_number, check_tasks, check_whole
from pmeta_lib.tabular.policies import Oracle, exact

LARGEST = 1e8  # beyond any sense for softmax parameters (exp(-745) is already 0): such a run has diverged


@dataclass(frozen=True)
class Settings:
    """The keywords all learners share; see `algorithm.pmeta`."""

    rounds: int
    lam: float = 0.0
    eta: float = 1.0
    inner_steps: int = 1
    inner_step_size: float = 1.0
    local_steps: int = 1
    beta: float = 1.0
    warm_start: bool = True
    tasks_per_round: int | None = None
    aggregate: str = "drawn"
    tau: float = 0.0
    generator: np.random.Generator | None = None
    oracle: Oracle = exact
    trace: bool = False

    def checked(self, tasks: TaskBatch) -> "Settings":
        """Itself, after refusing what cannot work on these tasks."""
        check_tasks(tasks)
        for name in ("rounds", "inner_steps", "local_steps"):
            check_whole(name, getattr(self, name))
        for name in ("lam", "eta", "beta", "tau"):
            check_number(name, getattr(self, name))
        check_number("inner_step_size", self.inner_step_size, positive=True)
        for name in ("warm_start", "trace"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        known("aggregate", self.aggregate, ("drawn", "all"))
        if not callable(self.oracle):
            raise UserError(f"oracle is {self.oracle!r}; leave it out, or make one by sampled(...).")
        N = len(tasks)
        n = N if self.tasks_per_round is None else check_whole("tasks_per_round", self.tasks_per_round)
        if n > N:
            raise UserError(f"tasks_per_round is {n}; it must be from 1 to the number of tasks, {N}.")
        if n < N or self.generator is not None:
            check_generator(self.generator)
        return replace(self, tasks_per_round=n)


def escaped(y: np.ndarray) -> np.ndarray:
    """(n,) whether a task's parameters y (n, S, A) have left the numbers that make sense."""
    return ~(np.abs(y).max((-2, -1)) <= LARGEST)  # NaN counts


def cause(s: Settings) -> str:
    """Why a run with these settings diverged, and the remedy."""
    pull, move = s.inner_step_size * s.lam, s.eta * s.lam * s.beta
    if pull >= 2:
        return f"inner_step_size * lam = {pull:g} is 2 or more; use inner_step_size < {2 / s.lam:g}"
    if move >= 2:
        return f"eta * lam * beta = {move:g} is 2 or more; use eta < {2 / (s.lam * s.beta):g}"
    return f"inner_step_size = {s.inner_step_size:g} or eta = {s.eta:g} is too large; divide it by 10"
