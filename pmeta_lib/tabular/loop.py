"""The one loop under all tabular learners: draw tasks, let a learner move, record, stop if it diverges."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pmeta_lib import moreau
from pmeta_lib.files import UserError
from pmeta_lib.tabular.mdp import TaskBatch, check_theta
from pmeta_lib.tabular.policies import barrier, returns
from pmeta_lib.tabular.settings import Settings, cause, escaped


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
            `||lam (theta - mean_i y_i)||` over the tasks of the meta step, theta as the round began (T1, T3).
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


@dataclass
class Move:
    """One round's outcome for the n drawn tasks: target of the meta step, their policies, bookkeeping."""

    target: np.ndarray  # (S, A): theta <- (1 - beta) theta + beta target
    y: np.ndarray | None  # (n, S, A), None: the tasks use theta itself
    norm: float | np.floating
    evaluations: int
    inner_square: float = 0.0


Round = Callable[[TaskBatch, np.ndarray, np.ndarray, np.ndarray], Move]


def learn(name: str, tasks: TaskBatch, theta0: np.ndarray, s: Settings, one_round: Round) -> History:
    """The loop of every learner; `one_round(drawn tasks, theta, their y, the y of the absent) -> Move`."""
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
        trace = None if steps is None else {k: np.stack(v) for k, v in zip(("theta", "personal"), zip(*steps))}
        return History(
            name, theta, y, arrays["meta"], arrays["personal"], arrays["norm"], arrays["potential"],
            arrays["inner"], arrays["evaluations"], dict(vars(s)), tasks, theta0, trace,
        )  # fmt: skip

    for t in range(s.rounds):
        everyone = s.tasks_per_round == N
        drawn = np.arange(N) if everyone else np.sort(s.generator.choice(N, s.tasks_per_round, replace=False))
        with np.errstate(over="ignore", invalid="ignore"):  # a diverging round is refused below, in words
            move = one_round(tasks if everyone else tasks[drawn], theta, y[drawn], np.delete(y, drawn, 0))
            new_theta = moreau.meta_step(theta, move.target, s.beta)
        new_y = y.copy() if move.y is not None else np.repeat(new_theta[None], N, 0)
        new_y[drawn] = new_theta if move.y is None else move.y
        if (bad := escaped(new_y[drawn])).any() or escaped(new_theta):
            task = int(drawn[bad.argmax()])
            text = f"{name} diverged in round {t}, first in task {task}: {cause(s)}. The exception's .history keeps"
            raise Diverged(f"{text} the {t} good rounds.", history())
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
