"""The one loop under all tabular learners: draw tasks, let a learner move, record, stop if it diverges."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pmeta_lib import moreau
from pmeta_lib.files import UserError
from pmeta_lib.tabular.mdp import TaskBatch, check_generator, check_number, check_tasks, check_theta, check_whole
from pmeta_lib.tabular.policies import Oracle, barrier, exact, returns

LARGEST = 1e8  # beyond any sense for softmax parameters (exp(-745) is already 0): such a run has diverged


@dataclass
class History:
    """What a learner leaves behind; T rounds, every mean is over all N tasks, returns are exact.

    Attributes:
        learner: its name.
        theta: (S, A) meta-parameters after the last round.
        personal: (N, S, A) the policy each task would use: its personalized or adapted parameters (those of
            the round in which it was last drawn), for `joint` and `pcgrad` theta itself.
        meta_return, personal_return: (T,) mean return of theta and of `personal` after each round.
        gradient_norm: (T,) norm of the direction that the outer move follows; for pmeta
            `||lam (theta - mean_i y_i)||` over the drawn tasks, theta as the round began (T1, T3).
        potential: (T + 1,) `Phi = mean_i f_i(y_i) + (lam/2) ||y_i - theta||^2` before each round and at the
            end (T5); f includes the barrier.
        inner_square: (T,) `mean_i sum_k ||grad h_i(y_i^k)||^2` over drawn tasks and all local steps (T5).
        evaluations: (T,) gradient evaluations spent so far, per task of the batch (Hessian products count).
        settings: the keywords of the run; `tasks`: the batch; `theta0`: where it started.
        trace: None, or with `trace=True` {"theta": (T + 1, S, A), "personal": (T + 1, N, S, A)}.
    """

    learner: str
    theta: np.ndarray
    personal: np.ndarray
    meta_return: np.ndarray
    personal_return: np.ndarray
    gradient_norm: np.ndarray
    potential: np.ndarray
    inner_square: np.ndarray
    evaluations: np.ndarray
    settings: dict
    tasks: TaskBatch
    theta0: np.ndarray
    trace: dict | None = None


class Diverged(UserError):
    """A run left the finite numbers. `history` holds every round before that: the last good state."""

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class Settings:
    """The keywords all learners share; see `pmeta`."""

    rounds: int
    lam: float = 0.0
    eta: float = 1.0
    inner_steps: int = 1
    inner_step_size: float = 1.0
    local_steps: int = 1
    beta: float = 1.0
    warm_start: bool = True
    tasks_per_round: int | None = None
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
            check_number(name, getattr(self, name), least=0)
        check_number("inner_step_size", self.inner_step_size, above=0)
        for name in ("warm_start", "trace"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        if not callable(self.oracle):
            raise UserError(f"oracle is {self.oracle!r}; leave it out, or make one by sampled(...).")
        N, n = len(tasks), self.tasks_per_round
        n = N if n is None else check_whole("tasks_per_round", n)
        if n > N:
            raise UserError(f"tasks_per_round is {n}; it must be from 1 to the number of tasks, {N}.")
        if n < N or self.generator is not None:
            check_generator("generator", self.generator)
        return replace(self, tasks_per_round=n)


@dataclass
class Move:
    """One round's outcome for the n drawn tasks: target of the meta step, their policies, bookkeeping."""

    target: np.ndarray  # (S, A): theta <- (1 - beta) theta + beta target
    y: np.ndarray | None  # (n, S, A), None: the tasks use theta itself
    norm: float
    evaluations: int
    inner_square: float = 0.0


Round = Callable[[TaskBatch, np.ndarray, np.ndarray], Move]


def learn(name: str, tasks: TaskBatch, theta0: np.ndarray, s: Settings, one_round: Round) -> History:
    """The loop of every learner; `one_round(drawn tasks, theta, their y) -> Move`."""
    N = len(tasks)
    theta = check_theta(tasks, theta0, "theta0", shared=True).copy()
    theta0 = theta.copy()
    y = np.repeat(theta[None], N, 0)
    curves = {k: [] for k in ("meta", "personal", "norm", "potential", "inner", "evaluations")}
    steps = [(theta.copy(), y.copy())] if s.trace else None
    curves["potential"].append(_potential(tasks, theta, y, returns(tasks, y), s))
    spent = 0.0

    def history() -> History:
        arrays = {k: np.array(v) for k, v in curves.items()}
        trace = None
        if steps is not None:
            trace = {k: np.stack(v) for k, v in zip(("theta", "personal"), zip(*steps))}
        return History(
            name, theta, y, arrays["meta"], arrays["personal"], arrays["norm"], arrays["potential"],
            arrays["inner"], arrays["evaluations"], dict(vars(s)), tasks, theta0, trace,
        )  # fmt: skip

    for t in range(s.rounds):
        if s.tasks_per_round < N:
            drawn = np.sort(s.generator.choice(N, s.tasks_per_round, replace=False))
            batch, start = tasks[drawn], y[drawn]
        else:
            drawn, batch, start = np.arange(N), tasks, y
        with np.errstate(over="ignore", invalid="ignore"):  # a diverging round is refused below, in words
            move = one_round(batch, theta, start)
            new_theta = moreau.meta_step(theta, move.target, s.beta)
        if move.y is None:
            new_y = np.repeat(new_theta[None], N, 0)
        else:
            new_y = y.copy()
            new_y[drawn] = move.y
        _refuse_divergence(name, t, drawn, new_theta, new_y, s, history)
        theta, y = new_theta, new_y
        spent += move.evaluations * len(drawn) / N
        task_returns = returns(tasks, y)
        curves["meta"].append(task_returns.mean() if move.y is None else returns(tasks, theta).mean())
        curves["personal"].append(task_returns.mean())
        curves["norm"].append(move.norm)
        curves["potential"].append(_potential(tasks, theta, y, task_returns, s))
        curves["inner"].append(move.inner_square)
        curves["evaluations"].append(spent)
        if steps is not None:
            steps.append((theta.copy(), y.copy()))
    return history()


def _potential(tasks: TaskBatch, theta: np.ndarray, y: np.ndarray, task_returns: np.ndarray, s: Settings) -> float:
    f = -(task_returns + barrier(tasks, y, s.tau))
    return float(moreau.envelope(f, y, theta, s.lam, axes=(-2, -1)).mean())


def escaped(y: np.ndarray) -> np.ndarray:
    """(n,) whether a task's parameters y (n, S, A) have left the numbers that make sense."""
    return ~(np.abs(y).max((-2, -1)) <= LARGEST)  # NaN counts


def _refuse_divergence(name, t, drawn, theta, y, s: Settings, history: Callable[[], History]) -> None:
    bad = escaped(y[drawn])
    if not bad.any() and not escaped(theta):
        return
    task = int(drawn[bad.argmax()])
    raise Diverged(
        f"{name} diverged in round {t}, first in task {task}: {cause(s)}. The exception's .history keeps the "
        f"{t} good rounds.",
        history(),
    )


def cause(s: Settings) -> str:
    """Why a run with these settings diverged, and the remedy."""
    pull = s.inner_step_size * s.lam
    if pull >= 2:
        return f"inner_step_size * lam = {pull:g} is 2 or more; use inner_step_size < {2 / s.lam:g}"
    if s.eta * s.lam * s.beta >= 2:
        return f"eta * lam * beta = {s.eta * s.lam * s.beta:g} is 2 or more; use eta < {2 / (s.lam * s.beta):g}"
    return f"inner_step_size = {s.inner_step_size:g} or eta = {s.eta:g} is too large; divide it by 10"


def ascend(tasks: TaskBatch, y: np.ndarray, centre: np.ndarray, lam: float, s: Settings) -> tuple[np.ndarray, float]:
    """K inner steps from y towards argmax J - (lam/2) ||. - centre||^2; the sum of squared slopes."""
    square = 0.0
    for _ in range(s.inner_steps):
        if escaped(y).any():  # no gradient has a meaning there; the caller refuses the round
            break
        ascent, _ = s.oracle(tasks, y, s.tau)
        new = moreau.inner_step(y, ascent, centre, lam, s.inner_step_size)
        square += float((((new - y) / s.inner_step_size) ** 2).sum()) / len(tasks)
        y = new
    return y, square


def repeat(theta: np.ndarray, tasks: TaskBatch) -> np.ndarray:
    return np.repeat(theta[None], len(tasks), 0)
