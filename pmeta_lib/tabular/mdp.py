"""N finite MDPs stacked into one batch, validated; discounted evaluation and optimal values, exactly.

Shapes used throughout: N tasks, S states, A actions. `P[i, s, a, t]` is the probability that task i moves from s to t
under a; `r[i, s, a]` the expected reward; `rho[i, s]` the start distribution; returns are `sum_t gamma^t r_t`."""

from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import torch

from pmeta_lib.files import UserError

ROW_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """N MDPs with the same numbers of states and actions and one discount: P, r, rho, gamma.
    UserError (a ValueError) for a wrong shape, NaN or infinity, a negative probability, a row that does not sum to 1,
    gamma outside [0, 1); its text names argument, task index and remedy."""

    P: np.ndarray  #: (N, S, A, S) transition probabilities; each row sums to 1
    r: np.ndarray  #: (N, S, A) expected rewards, in [0, 1] unless stated; the bounds of the theory scale with the range
    rho: np.ndarray  #: (N, S) start distributions; each row sums to 1
    gamma: float  #: discount in [0, 1)
    checked: bool = field(default=False, repr=False)  # a slice of a valid batch is valid: skip the checks

    def __post_init__(self) -> None:
        if self.checked:
            return
        P, r, rho = (_as_float(name, getattr(self, name)) for name in ("P", "r", "rho"))
        if P.ndim != 4 or 0 in P.shape or P.shape[1] != P.shape[3]:
            raise UserError(f"P has shape {P.shape}, not (N, S, A, S); stack the tasks along axis 0.")
        N, S, A, _ = P.shape
        for name, array, letters, shape in (("r", r, "(N, S, A)", (N, S, A)), ("rho", rho, "(N, S)", (N, S))):
            remedy = f"for one {name} shared by all tasks use np.broadcast_to({name}, {shape})"
            if array.shape != shape:
                raise UserError(f"{name} has shape {array.shape}, not {letters} = {shape} as P says; {remedy}.")
        for name, array in (("P", P), ("r", r), ("rho", rho)):
            _refuse(name, ~np.isfinite(array), array, "is not finite; replace NaN and infinity")
        for name, array in (("P", P), ("rho", rho)):
            _refuse(name, array < 0, array, "is negative; probabilities lie in [0, 1]")
            total, remedy = array.sum(-1), f"divide {name} by {name}.sum(-1, keepdims=True)"
            _refuse(name, np.abs(total - 1) > ROW_TOLERANCE, total, f"is the sum of a row, not 1; {remedy}")
        if isinstance(self.gamma, Real) and not 0.0 <= self.gamma < 1.0:
            found = f"gamma is {self.gamma}, outside [0, 1), for every task (0 to {N - 1})"
            raise UserError(f"{found}: undiscounted returns can be infinite; use a value such as 0.99.")
        vars(self).update(P=P, r=r, rho=rho, gamma=check_number("gamma", self.gamma))  # frozen for everybody else

    def __len__(self) -> int:
        return self.P.shape[0]

    def __getitem__(self, index: "int | slice | list | np.ndarray") -> "TaskBatch":
        """The batch of the tasks `index` (an int gives a batch of one)."""
        index = [index] if isinstance(index, int | np.integer) else index
        return TaskBatch(self.P[index], self.r[index], self.rho[index], self.gamma, checked=True)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, S, A)."""
        return self.r.shape

    @staticmethod
    def concatenate(batches: "list[TaskBatch]") -> "TaskBatch":
        """One batch of all the tasks of `batches`, in order; they must agree in S, A and gamma."""
        if len({(b.shape[1:], b.gamma) for b in batches}) != 1:
            raise UserError("the batches differ in S, A or gamma; only alike tasks can be stacked.")
        P, r, rho = (np.concatenate([getattr(b, name) for b in batches]) for name in ("P", "r", "rho"))
        return TaskBatch(P, r, rho, batches[0].gamma, checked=True)


def _as_float(name: str, array: object) -> np.ndarray:
    try:
        return np.ascontiguousarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers ({error}); pass a NumPy array.") from None


def _refuse(name: str, bad: np.ndarray, shown: np.ndarray, why: str, per_task: bool = True) -> None:
    """Raise for the first True of `bad`, whose leading index is the task if `per_task`."""
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        task = f" (task {where[0]})" if per_task else ""
        raise UserError(f"{name}{where}{task} = {shown[tuple(where)]:.6g} {why}.")


def check_number(name: str, value: object, positive: bool = False, most: float = np.inf) -> float:
    """`value` as a finite float from 0 (above 0 if `positive`) to `most`; UserError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real):  # float() would take "0.5", True and [0.5]
        raise UserError(f"{name} is {value!r}, not a number; it is one number, the same for every task.")
    number = float(value)
    if not 0 <= number <= most or number == np.inf or (positive and number == 0):
        asked = ("above 0" if positive else "at least 0") + (f" and at most {most}" if most < np.inf else "")
        raise UserError(f"{name} is {number:g} for every task; it must be a finite number {asked}.")
    return number


def check_whole(name: str, value: object, least: int = 1) -> int:
    """`value` as a whole number from `least`; UserError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{name} is {value!r} for every task; it must be a whole number from {least}.")
    return int(value)


def check_generator(generator: object) -> None:
    """UserError unless it is a NumPy generator; a bare seed is the usual mistake."""
    if not isinstance(generator, np.random.Generator):
        raise UserError(f"generator is {generator!r}; pass generator=numpy.random.default_rng(seed).")


def check_theta(tasks: TaskBatch, theta: np.ndarray, name: str = "theta", shared: bool = False) -> np.ndarray:
    """`theta` as float64, (S, A) or, unless `shared`, (N, S, A); UserError if it or `tasks` is bad."""
    if not isinstance(tasks, TaskBatch):  # a whole Family is the usual mistake
        raise UserError(f"tasks is a {type(tasks).__name__}, not a TaskBatch(P, r, rho, gamma); a family's is .train.")
    theta = _as_float(name, theta)
    N, S, A = tasks.shape
    if theta.shape != (S, A) and (shared or theta.shape != tasks.shape):
        wanted = f"(S, A) = {(S, A)}" + ("" if shared else f" or (N, S, A) = {(N, S, A)}")
        raise UserError(f"{name} has shape {theta.shape}, not {wanted}; reshape or stack it per task.")
    _refuse(name, ~np.isfinite(theta), theta, "is not finite; start from finite parameters", theta.ndim == 3)
    return theta


def under_policy(tasks: TaskBatch, pi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`I - gamma P_pi` (N, S, S) and `r_pi` (N, S) of the policies `pi` (N, S, A)."""
    N, S, _ = tasks.shape
    system = np.einsum("nsa,nsat->nst", pi, tasks.P)
    system *= -tasks.gamma
    system.reshape(N, S * S)[:, :: S + 1] += 1.0  # the diagonals
    return system, (pi * tasks.r).sum(-1)


class Factorization:
    """One LU factorization of each `M` (N, S, S), for systems with M and with its transpose.
    NumPy has no batched "factor once, solve both ways"; torch's LAPACK calls do it on the same memory, not copied."""

    def __init__(self, M: np.ndarray):
        # LAPACK is column-major: hand it the transposed view, and swap the two kinds of solve.
        self._lu, self._pivots = torch.linalg.lu_factor(torch.from_numpy(M).mT)

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        """x (N, S) with `M x = b`, or `M^T x = b` if transposed; b (N, S)."""
        rhs = torch.from_numpy(np.ascontiguousarray(b)).unsqueeze(-1)
        return torch.linalg.lu_solve(self._lu, self._pivots, rhs, adjoint=not transposed).squeeze(-1).numpy()


def action_values(tasks: TaskBatch, V: np.ndarray) -> np.ndarray:
    """`Q = r + gamma P V` (N, S, A) of state values V (N, S)."""
    N, S, A = tasks.shape
    return tasks.r + tasks.gamma * np.matmul(tasks.P.reshape(N, S * A, S), V[..., None]).reshape(N, S, A)


def optimal_policies(tasks: TaskBatch, tol: float = 1e-12) -> tuple[np.ndarray, np.ndarray]:
    """Deterministic optimal actions (N, S) and optimal state values (N, S), by policy iteration.
    Exact up to `tol` (relative to the task's largest value): an action is only exchanged for one that is better by more
    than that, so that ties cannot cycle. Puterman, Markov Decision Processes (1994), section 6.4."""
    actions, A = tasks.r.argmax(-1), tasks.shape[2]
    while True:
        system, reward = under_policy(tasks, np.eye(A)[actions])
        V = np.linalg.solve(system, reward[..., None])[..., 0]
        Q = action_values(tasks, V)
        kept = np.take_along_axis(Q, actions[..., None], -1)[..., 0]
        better = Q.max(-1) - kept > tol * np.maximum(1.0, np.abs(V).max(-1, keepdims=True))
        if not better.any():
            return actions, V
        actions = np.where(better, Q.argmax(-1), actions)


def optimal_values(tasks: TaskBatch) -> np.ndarray:
    """(N,) the largest expected discounted return of each task, from its start distribution."""
    return (tasks.rho * optimal_policies(tasks)[1]).sum(-1)
