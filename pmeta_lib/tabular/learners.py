"""The baselines of pMeta on tabular tasks: each learner is one short round in the shared loop.

Every learner has the keywords of `pmeta` and the same order of operations: draw n of the N tasks, inner steps for all
of them at once, one move of the meta-parameters. Thus one dict of settings serves all; `eta` is the size of the outer
move, `inner_steps` (K) and `inner_step_size` (s) shape the inner loop. A keyword that has no meaning for a baseline
(lam, local_steps, warm_start, aggregate; for `independent` eta and beta too) is checked and then changes nothing."""

import inspect
from collections.abc import Callable
from functools import wraps

import numpy as np

from pmeta_lib.files import UserError
from pmeta_lib.tabular.algorithm import ascend
from pmeta_lib.tabular.loop import History, Move, Settings, cause, copies, escaped, learn
from pmeta_lib.tabular.mdp import TaskBatch, check_theta, check_whole
from pmeta_lib.tabular.policies import Oracle, exact, returns
from pmeta_lib.tabular.scores import project_conflicts


def learner(one_round: Callable[..., Move]) -> Callable[..., History]:
    """Make a learner of its round `(s, drawn tasks, theta, their y, …)`, by whose name and docstring it is known."""

    @wraps(one_round, assigned=("__module__", "__name__", "__qualname__"))
    def run(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
        return learn(one_round.__name__, tasks, theta0, Settings(**settings | {"lam": 0.0}), one_round)

    run.__doc__ = f"{one_round.__doc__} Without effect: lam, local_steps, warm_start, aggregate."
    # `help(joint)` and editors list the shared keywords, although the code passes them on as one dict.
    signature = inspect.signature(run, follow_wrapped=False)
    shared = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(Settings).parameters.values()]
    vars(run)["__signature__"] = signature.replace(parameters=[*list(signature.parameters.values())[:2], *shared])
    return run


@learner
def independent(s: Settings, drawn: TaskBatch, theta: np.ndarray, y: np.ndarray, _: np.ndarray) -> Move:
    """Each task learns alone: K steps of size s a round; theta stays, whatever eta and beta (pmeta at lam = 0)."""
    y, square = ascend(s, drawn, y, y)
    return Move(theta, y, np.sqrt(square / s.inner_steps), s.inner_steps, square)


@learner
def joint(s: Settings, drawn: TaskBatch, theta: np.ndarray, *_: np.ndarray) -> Move:
    """One policy ascends the mean return: K steps of size s, then `theta += eta (x - theta)`. With the defaults K = 1
    and s = 1, eta is the step size; with eta = 1 it is s."""
    return _shared_ascent(s, drawn, theta, lambda g: g.mean(0))


@learner
def pcgrad(s: Settings, drawn: TaskBatch, theta: np.ndarray, *_: np.ndarray) -> Move:
    """`joint` with conflicting gradients projected off each other; `generator` orders the projections."""
    return _shared_ascent(s, drawn, theta, lambda g: project_conflicts(g, s.generator).mean(0))


def _shared_ascent(s: Settings, drawn: TaskBatch, theta: np.ndarray, combine: Callable) -> Move:
    """One policy for all tasks: K steps of size s along combine(gradients), of which eta is kept."""
    x, first = theta, None
    for _ in range(s.inner_steps):
        direction = combine(s.oracle(drawn, copies(x, len(drawn)), s.tau)[0])
        first = direction if first is None else first
        x = x + s.inner_step_size * direction
    return Move(theta + s.eta * (x - theta), None, np.linalg.norm(first), s.inner_steps)


@learner
def reptile(s: Settings, drawn: TaskBatch, theta: np.ndarray, *_: np.ndarray) -> Move:
    """K ascent steps from theta in each task, then `theta += eta (mean y - theta)` (Nichol et al., 2018)."""
    y = ascend(s, drawn, copies(theta, len(drawn)), theta)[0]
    shift = y.mean(0) - theta
    return Move(theta + s.eta * shift, y, np.linalg.norm(shift) / (s.inner_steps * s.inner_step_size), s.inner_steps)


@learner
def maml(s: Settings, drawn: TaskBatch, theta: np.ndarray, *_: np.ndarray) -> Move:
    """Ascend the mean return *after* K inner steps of size s; outer step eta, exact second derivatives."""
    return _after_adaptation(s, drawn, theta, True)


@learner
def fomaml(s: Settings, drawn: TaskBatch, theta: np.ndarray, *_: np.ndarray) -> Move:
    """First-order MAML: `theta += eta mean_i grad J_i(y_i)`."""
    return _after_adaptation(s, drawn, theta, False)


def _after_adaptation(s: Settings, drawn: TaskBatch, theta: np.ndarray, second_order: bool) -> Move:
    v, y = maml_gradients(drawn, theta, s.inner_steps, s.inner_step_size, s.tau, s.oracle, second_order)
    direction = v.mean(0)
    cost = s.inner_steps + 1 + (s.inner_steps if second_order else 0)
    return Move(theta + s.eta * direction, y, np.linalg.norm(direction), cost)


def maml_gradients(
    tasks: TaskBatch, theta: np.ndarray, inner_steps: int, inner_step_size: float, tau: float = 0.0,
    oracle: Oracle = exact, second_order: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """d/dtheta J_i(y_i(theta)) (N, S, A) after K inner steps, and those y_i (N, S, A).
    The chain rule backwards through the steps, `v <- v + s H(y^k) v`: Hessian-vector products, no K-fold memory of
    matrices. Without second order the gradient at y_i (Finn et al., ICML 2017, both)."""
    y, products = np.broadcast_to(check_theta(tasks, theta), tasks.shape), []
    for _ in range(inner_steps):
        ascent, product = oracle(tasks, y, tau)
        products.append(product)
        y = y + inner_step_size * ascent
    v, _ = oracle(tasks, y, tau)
    if second_order:
        for product in reversed(products):
            v = v + inner_step_size * product(v)
    return v, y


def adapt(
    tasks: TaskBatch, theta: np.ndarray, *, steps: int, step_size: float, lam: float = 0.0, tau: float = 0.0,
    oracle: Oracle = exact,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Meta-test: `steps` inner steps on new tasks from theta, with pull `lam` towards it (0: fine-tuning).
    theta is (S, A) or, to fine-tune personalized policies, (N, S, A). Returns the policies (N, S, A) and the exact
    returns before each step and at the end, (steps + 1, N). UserError if the steps diverge."""
    centre = check_theta(tasks, theta)
    check_whole("steps", steps, least=0)
    s = Settings(1, lam=lam, tau=tau, inner_step_size=step_size, oracle=oracle).checked(len(tasks))
    y = np.broadcast_to(centre, tasks.shape).copy()
    curve = [returns(tasks, y)]
    for k in range(steps):
        y, _ = ascend(s, tasks, y, centre)
        if (bad := escaped(y)).any():
            why = cause(s).replace("inner_step_size", "step_size")
            raise UserError(f"adapt diverged at step {k}, first in task {bad.argmax()}: {why}.")
        curve.append(returns(tasks, y))
    return y, np.stack(curve)
