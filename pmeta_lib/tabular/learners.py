"""The baselines of pMeta on tabular tasks: each learner is one short function over one shared loop.

Every learner has the keywords of `pmeta` and the same order of operations: draw n of the N tasks, inner
steps for all of them at once, one move of the meta-parameters. Thus one dict of settings serves all; `eta` is
the size of the outer move, `inner_steps` (K) and `inner_step_size` (s) shape the inner loop. A keyword that
has no meaning for a learner (its docstring says which) is checked and then changes nothing.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pmeta_lib.files import UserError
from pmeta_lib.tabular.algorithm import ascend, copies, pmeta
from pmeta_lib.tabular.loop import History, Move, learn
from pmeta_lib.tabular.mdp import TaskBatch, check_theta, check_whole
from pmeta_lib.tabular.policies import Oracle, exact, returns
from pmeta_lib.tabular.settings import Settings, cause, escaped


def independent(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
    """Each task learns alone: K ascent steps of size s a round; theta stays (pmeta with lam = 0, warm).

    Without effect: lam, eta, beta, local_steps, warm_start, aggregate.
    """
    s = replace(Settings(**settings), lam=0.0).checked(tasks)

    def one_round(drawn: TaskBatch, theta: np.ndarray, y: np.ndarray, _) -> Move:
        y, square = ascend(drawn, y, y, 0.0, s)
        return Move(theta, y, np.sqrt(square / s.inner_steps), s.inner_steps, square)

    return learn("independent", tasks, theta0, s, one_round)


def _shared_ascent(name: str, tasks: TaskBatch, theta0: np.ndarray, settings: dict, combine: Callable) -> History:
    """One policy for all tasks: K steps of size s along combine(gradients), of which eta is kept."""
    s = replace(Settings(**settings), lam=0.0).checked(tasks)

    def one_round(drawn: TaskBatch, theta: np.ndarray, y: np.ndarray, _) -> Move:
        x, first = theta, None
        for _ in range(s.inner_steps):
            direction = combine(s.oracle(drawn, copies(x, len(drawn)), s.tau)[0], s.generator)
            first = direction if first is None else first
            x = x + s.inner_step_size * direction
        return Move(theta + s.eta * (x - theta), None, np.linalg.norm(first), s.inner_steps)

    return learn(name, tasks, theta0, s, one_round)


def joint(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
    """One policy ascends the mean return: K steps of size s, then `theta += eta (x - theta)`.

    With the defaults K = 1 and s = 1, eta is the step size; with eta = 1 it is s. Without effect: lam,
    local_steps, warm_start, aggregate.
    """
    return _shared_ascent("joint", tasks, theta0, settings, lambda g, _: g.mean(0))


def project_conflicts(gradients: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
    """(N, S, A) gradients, each projected off those it conflicts with (PCGrad; Yu et al., NeurIPS 2020).

    The others come in random order, as published; without a generator in the order i+1, i+2, …
    """
    N = len(gradients)
    g = gradients.reshape(N, -1)
    squares, out, tasks = (g**2).sum(1), g.copy(), np.arange(N)
    if generator is None:
        order = (tasks[:, None] + np.arange(1, N)) % N
    else:
        order = (tasks[:, None] + 1 + generator.permuted(np.tile(np.arange(N - 1), (N, 1)), axis=1)) % N
    for other in order.T:
        dot = np.minimum((out * g[other]).sum(1), 0.0)
        out -= np.divide(dot, squares[other], out=np.zeros(N), where=squares[other] > 0)[:, None] * g[other]
    return out.reshape(gradients.shape)


def pcgrad(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
    """`joint` with conflicting gradients projected off each other; `generator` orders the projections."""
    return _shared_ascent("pcgrad", tasks, theta0, settings, lambda g, rng: project_conflicts(g, rng).mean(0))


def reptile(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
    """K ascent steps from theta in each task, then `theta += eta (mean y - theta)` (Nichol et al., 2018).

    Without effect: lam, local_steps, warm_start, aggregate.
    """
    s = replace(Settings(**settings), lam=0.0).checked(tasks)

    def one_round(drawn: TaskBatch, theta: np.ndarray, y: np.ndarray, _) -> Move:
        y, _ = ascend(drawn, copies(theta, len(drawn)), theta, 0.0, s)
        shift = y.mean(0) - theta
        norm = np.linalg.norm(shift) / (s.inner_steps * s.inner_step_size)
        return Move(theta + s.eta * shift, y, norm, s.inner_steps)

    return learn("reptile", tasks, theta0, s, one_round)


def maml_gradients(
    tasks: TaskBatch, theta: np.ndarray, inner_steps: int, inner_step_size: float, tau: float = 0.0,
    oracle: Oracle = exact, second_order: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """d/dtheta J_i(y_i(theta)) (N, S, A) after K inner steps, and those y_i (N, S, A).

    The chain rule backwards through the steps, `v <- v + s H(y^k) v`: Hessian-vector products, no K-fold
    memory of matrices. Without second order the gradient at y_i (Finn et al., ICML 2017, both).
    """
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


def _maml(name: str, tasks: TaskBatch, theta0: np.ndarray, settings: dict, second_order: bool) -> History:
    s = replace(Settings(**settings), lam=0.0).checked(tasks)
    cost = s.inner_steps + 1 + (s.inner_steps if second_order else 0)

    def one_round(drawn: TaskBatch, theta: np.ndarray, y: np.ndarray, _) -> Move:
        v, y = maml_gradients(drawn, theta, s.inner_steps, s.inner_step_size, s.tau, s.oracle, second_order)
        direction = v.mean(0)
        return Move(theta + s.eta * direction, y, np.linalg.norm(direction), cost)

    return learn(name, tasks, theta0, s, one_round)


def maml(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
    """Ascend the mean return *after* K inner steps of size s; outer step eta, exact second derivatives.

    Without effect: lam, local_steps, warm_start, aggregate.
    """
    return _maml("maml", tasks, theta0, settings, True)


def fomaml(tasks: TaskBatch, theta0: np.ndarray, **settings) -> History:
    """First-order MAML: `theta += eta mean_i grad J_i(y_i)`. Without effect: what has none in `maml`."""
    return _maml("fomaml", tasks, theta0, settings, False)


LEARNERS = {f.__name__: f for f in (pmeta, independent, joint, maml, fomaml, reptile, pcgrad)}

# `help(joint)` and editors list the shared keywords, although the code passes them on as one dict.
_shared = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(Settings).parameters.values()]
_first = list(inspect.signature(joint).parameters.values())[:2]
for _learner in (independent, joint, maml, fomaml, reptile, pcgrad):
    vars(_learner)["__signature__"] = inspect.Signature(_first + _shared, return_annotation=History)


def adapt(
    tasks: TaskBatch, theta: np.ndarray, *, steps: int, step_size: float, lam: float = 0.0, tau: float = 0.0,
    oracle: Oracle = exact,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Meta-test: `steps` inner steps on new tasks from theta, with pull `lam` towards it (0: fine-tuning).

    theta is (S, A) or, to fine-tune personalized policies, (N, S, A). Returns the policies (N, S, A) and the
    exact returns before each step and at the end, (steps + 1, N). UserError if the steps diverge.
    """
    centre = check_theta(tasks, theta)
    check_whole("steps", steps, least=0)
    s = Settings(1, lam=lam, tau=tau, inner_step_size=step_size, oracle=oracle).checked(tasks)
    y = np.broadcast_to(centre, tasks.shape).copy()
    curve = [returns(tasks, y)]
    for k in range(steps):
        y, _ = ascend(tasks, y, centre, lam, s)
        if (bad := escaped(y)).any():
            why = cause(s).replace("inner_step_size", "step_size")
            raise UserError(f"adapt diverged at step {k}, first in task {bad.argmax()}: {why}.")
        curve.append(returns(tasks, y))
    return y, np.stack(curve)
