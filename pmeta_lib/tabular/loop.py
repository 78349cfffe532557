"""The one loop under all tabular learners: draw tasks, let a learner move, record, stop if it diverges."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pmeta_lib import moreau
from pmeta_lib.files import UserError, known
from pmeta_lib.tabular.mdp import TaskBatch, check_generator, check_number, check_theta, check_whole
from pmeta_lib.tabular.policies import Oracle, barrier, exact, returns


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

    def checked(self, N: int) -> "Settings":
        """Itself, after refusing what cannot work on N tasks."""
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
        n = N if self.tasks_per_round is None else check_whole("tasks_per_round", self.tasks_per_round)
        if n > N:
            raise UserError(f"tasks_per_round is {n}; it must be from 1 to the number of tasks, {N}.")
        if n < N or self.generator is not None:
            check_generator(self.generator)
        return replace(self, tasks_per_round=n)


def escaped(y: np.ndarray) -> np.ndarray:
    """(n,) whether a task's parameters y (n, S, A) have left the numbers that make sense in a softmax; NaN has."""
    return ~(np.abs(y).max((-2, -1)) <= 1e8)  # exp(-745) is already 0: such a run has diverged


def cause(s: Settings) -> str:
    """Why a run with these settings diverged, and the remedy."""
    pull, move = s.inner_step_size * s.lam, s.eta * s.lam * s.beta
    if pull >= 2:
        return f"inner_step_size * lam = {pull:g} is 2 or more; use inner_step_size < {2 / s.lam:g}"
    if move >= 2:
        return f"eta * lam * beta = {move:g} is 2 or more; use eta < {2 / (s.lam * s.beta):g}"
    return f"inner_step_size = {s.inner_step_size:g} or eta = {s.eta:g} is too large; divide it by 10"


@dataclass
class History:
    """What a learner leaves behind after T rounds; every mean is over all N tasks, returns are exact."""

    learner: str  #: its name
    tasks: TaskBatch  #: the batch
    settings: dict  #: the keywords of the run
    theta0: np.ndarray  #: (S, A) where it started
    theta: np.ndarray  #: (S, A) meta-parameters after the last round
    #: (N, S, A) the policy each task would use: its personalized or adapted parameters (those of the round in which it
    #: was last drawn), for `joint` and `pcgrad` theta itself
    personal: np.ndarray
    trace: dict | None  #: None, or with `trace=True` {"theta": (T + 1, S, A), "personal": (T + 1, N, S, A)}
    #: (T + 1,) `Phi = mean_i f_i(y_i) + (lam/2) ||y_i - theta||^2`, barrier in f, before each round and at the end (T5)
    potential: np.ndarray
    meta_return: np.ndarray  #: (T,) mean return of theta after each round
    personal_return: np.ndarray  #: (T,) mean return of `personal` after each round
    #: (T,) norm of the direction that the outer move follows; for pmeta `||lam (theta - mean_i y_i)||` over the tasks
    #: of the meta step, theta as the round began (T1, T3)
    gradient_norm: np.ndarray
    inner_square: np.ndarray  #: (T,) `mean_i sum_k ||grad h_i(y_i^k)||^2` over drawn tasks and all local steps (T5)
    evaluations: np.ndarray  #: (T,) gradient evaluations spent so far, per task of the batch (Hessian products count)


class Diverged(UserError):
    """A run left the finite numbers. `history` holds every round before that: the last good state."""

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


@dataclass
class Move:
    """One round's outcome for the n drawn tasks: target of the meta step, their policies, bookkeeping."""

    target: np.ndarray  # (S, A): theta <- (1 - beta) theta + beta target
    y: np.ndarray | None  # (n, S, A), None: the tasks use theta itself
    norm: float | np.floating
    evaluations: int
    inner_square: float = 0.0


def copies(theta: np.ndarray, count: int) -> np.ndarray:
    """(count, S, A): theta once for each task."""
    return np.repeat(theta[None], count, 0)


def learn(name: str, tasks: TaskBatch, theta0: np.ndarray, s: Settings, one_round: Callable[..., Move]) -> History:
    """The loop of every learner, around its `one_round(settings, drawn tasks, theta, their y, y of the absent)`."""
    theta = theta0 = check_theta(tasks, theta0, "theta0", shared=True).copy()
    N, spent = len(tasks), 0.0
    s, y = s.checked(N), copies(theta, N)
    rows, steps = [], [(theta, y)]
    potential = [_potential(tasks, theta, y, returns(tasks, y), s)]

    def history() -> History:
        curves = np.array(rows).reshape(-1, 5).T.copy()
        trace = {k: np.stack(v) for k, v in zip(("theta", "personal"), zip(*steps))} if s.trace else None
        return History(name, tasks, dict(vars(s)), theta0, theta, y, trace, np.array(potential), *curves)

    for t in range(s.rounds):
        everyone = s.tasks_per_round == N
        drawn = np.arange(N) if everyone else np.sort(s.generator.choice(N, s.tasks_per_round, replace=False))
        with np.errstate(over="ignore", invalid="ignore"):  # a diverging round is refused below, in words
            move = one_round(s, tasks if everyone else tasks[drawn], theta, y[drawn], np.delete(y, drawn, 0))
            new_theta = moreau.meta_step(theta, move.target, s.beta)
        new_y = copies(new_theta, N) if move.y is None else y.copy()
        new_y[drawn] = new_theta if move.y is None else move.y
        if (bad := escaped(new_y[drawn])).any() or escaped(new_theta):
            text = f"{name} diverged in round {t}, first in task {drawn[bad.argmax()]}: {cause(s)}."
            raise Diverged(f"{text} The exception's .history keeps the {t} good rounds.", history())
        theta, y = new_theta, new_y
        spent += move.evaluations * len(drawn) / N
        task_returns = returns(tasks, y)
        meta_return = task_returns.mean() if move.y is None else returns(tasks, theta).mean()
        rows.append((meta_return, task_returns.mean(), move.norm, move.inner_square, spent))
        potential.append(_potential(tasks, theta, y, task_returns, s))
        if s.trace:
            steps.append((theta, y))
    return history()


def _potential(tasks: TaskBatch, theta: np.ndarray, y: np.ndarray, task_returns: np.ndarray, s: Settings) -> float:
    f = -(task_returns + barrier(tasks, y, s.tau))
    return float(moreau.envelope(f, y, theta, s.lam, axes=(-2, -1)).mean())
