"""Tabular pMeta: one round of the pseudocode in `pmeta_lib.moreau`, for all drawn tasks at once."""

import numpy as np

from pmeta_lib import moreau
from pmeta_lib.tabular.loop import History, Move, Settings, copies, escaped, learn
from pmeta_lib.tabular.mdp import TaskBatch
from pmeta_lib.tabular.policies import Oracle, exact


def ascend(s: Settings, tasks: TaskBatch, y: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, float]:
    """K inner steps from y towards argmax J - (lam/2) ||. - centre||^2; the sum of squared slopes."""
    square = 0.0
    for _ in range(s.inner_steps):
        if escaped(y).any():  # no gradient has a meaning there; the caller refuses the round
            break
        ascent, _ = s.oracle(tasks, y, s.tau)
        new = moreau.inner_step(y, ascent, centre, s.lam, s.inner_step_size)
        square += float((((new - y) / s.inner_step_size) ** 2).sum()) / len(tasks)
        y = new
    return y, square


def one_round(s: Settings, drawn: TaskBatch, theta: np.ndarray, y: np.ndarray, absent: np.ndarray) -> Move:
    """The drawn tasks' policies y and local copies w move; the mean of the w is what theta then moves to."""
    rest = absent if s.aggregate == "all" else absent[:0]  # they move w as well, with the y they have
    w, square = copies(theta, len(y) + len(rest)), 0.0
    for _ in range(s.local_steps):
        here = w[: len(y)]
        y, more = ascend(s, drawn, y if s.warm_start else here, here)
        w, square = moreau.local_step(w, np.concatenate([y, rest]), s.eta * s.lam), square + more
    followed = moreau.envelope_gradient(theta, np.concatenate([y, rest]).mean(0), s.lam)
    return Move(w.mean(0), y, np.linalg.norm(followed), s.local_steps * s.inner_steps, square)


def pmeta(
    tasks: TaskBatch, theta0: np.ndarray, *, rounds: int, lam: float, eta: float, inner_steps: int,
    inner_step_size: float, local_steps: int = 1, beta: float = 1.0, warm_start: bool = True,
    tasks_per_round: int | None = None, aggregate: str = "drawn", tau: float = 0.0,
    generator: np.random.Generator | None = None, oracle: Oracle = exact, trace: bool = False,
) -> History:  # fmt: skip
    """Personalized policies tied to a meta-policy by `lam`; the pseudocode of `pmeta_lib.moreau`.

    Args:
        tasks: N tasks. theta0: (S, A) start of theta and, in the first round, of every y_i.
        rounds: T. lam: weight of `(lam/2) ||theta_i - theta||^2`, in return per squared parameter; 0 leaves the tasks
            alone. eta: step of the local copies w_i on the envelope. inner_steps: K. inner_step_size: s.
            local_steps: R. beta: aggregation. tasks_per_round: n; None means all. generator: draws them.
        warm_start: keep y_i from the round before, else restart it at w in each local step.
        aggregate: the mean of the meta step runs over the "drawn" tasks, or over "all", absent ones with the y_i of
            the round in which they were last drawn. With "all", Phi falls in every round whoever is drawn (T5).
        tau: weight of the log barrier. oracle: gradients; `exact`, or one made by `sampling.sampled`.
        trace: also keep theta and personal after each round.

    Raises:
        UserError: a setting that cannot work, named. Diverged: parameters left the finite numbers."""
    settings = Settings(
        rounds, lam, eta, inner_steps, inner_step_size, local_steps, beta, warm_start, tasks_per_round, aggregate,
        tau, generator, oracle, trace,
    )  # fmt: skip
    return learn("pmeta", tasks, theta0, settings, one_round)
