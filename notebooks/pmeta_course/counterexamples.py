"""What goes wrong when an assumption of the theorems is dropped, on one-dimensional quadratics.

`f_i(x) = (a_i/2) (x - c_i)^2`, so everything is known in closed form: L = max |a_i|,
`prox_i(theta) = (a_i c_i + lam theta)/(a_i + lam)`, and the minimiser of F is a weighted mean of the c_i.
"""

import numpy as np
import pandas as pd

from pmeta_lib import moreau


def quadratic_prox(a: np.ndarray, c: np.ndarray, theta: float | np.ndarray, lam: float) -> np.ndarray:
    """(N,) personalized points `(a c + lam theta)/(a + lam)`; needs a + lam > 0."""
    return (a * c + lam * theta) / (a + lam)


def quadratic_minimiser(a: np.ndarray, c: np.ndarray, lam: float) -> float:
    """The minimiser of F: the c_i weighted by the envelopes' curvatures `a lam/(a + lam)`."""
    weight = a * lam / (a + lam)
    return float((weight * c).sum() / weight.sum())


def quadratic_fixed_point(a: np.ndarray, c: np.ndarray, lam: float, eta: float, local_steps: int) -> float:
    """T7: where R exact local steps a round end; weights `1 - (1 - eta k_i)^R` with `k_i = a_i lam/(a_i + lam)`.

    For R = 1 or eta -> 0 that is `quadratic_minimiser`; otherwise the bias depends on eta.
    """
    weight = 1 - (1 - eta * a * lam / (a + lam)) ** local_steps
    return float((weight * c).sum() / weight.sum())


def effective_lam(lam: float, eta: float, local_steps: int) -> float:
    """T7, to first order in eta: R local steps act like the softer spring `1/lam_eff = 1/lam + eta (R - 1)/2`."""
    return 1.0 / (1.0 / lam + eta * (local_steps - 1) / 2.0)


def quadratic_run(
    a: np.ndarray, c: np.ndarray, *, rounds: int, lam: float, eta: float, inner_steps: int | None,
    inner_step_size: float = 0.0, local_steps: int = 1, warm_start: bool = True, tasks_per_round: int | None = None,
    aggregate: str = "drawn", generator: np.random.Generator | None = None, theta0: float = 0.0, beta: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """theta (T + 1,) and Phi (T + 1,) of the scheme on quadratics; inner_steps None is the exact prox."""
    theta, everyone = float(theta0), np.arange(len(a))
    y = np.full(len(a), theta)
    states = [(theta, y.copy())]
    for _ in range(rounds):
        drawn = everyone if tasks_per_round is None else generator.choice(everyone, tasks_per_round, replace=False)
        w = np.full(len(drawn), theta)
        for _ in range(local_steps):
            x = y[drawn] if warm_start else w
            for _ in range(inner_steps or 0):
                x = moreau.inner_step(x, -a[drawn] * (x - c[drawn]), w, lam, inner_step_size)
            y[drawn] = quadratic_prox(a[drawn], c[drawn], w, lam) if inner_steps is None else x
            w = moreau.local_step(w, y[drawn], eta * lam)
        if aggregate == "all":  # with R = 1, the only R for which it is used here
            absent = y[np.setdiff1d(everyone, drawn)]
            w = np.concatenate([w, moreau.local_step(np.full(len(absent), theta), absent, eta * lam)])
        theta = float(moreau.meta_step(theta, w.mean(), beta))
        states.append((theta, y.copy()))
    thetas, policies = map(np.array, zip(*states))
    heights = moreau.envelope(a / 2 * (policies - c) ** 2, policies, thetas[:, None], lam, ())
    return thetas, heights.mean(1)


def counter_examples(seed: int = 0) -> pd.DataFrame:
    """One row for each dropped assumption: assumption, statement, quantity, with_it, without_it.
    Two tasks a = (1, 4), c = (0, 1), lam = 2 (F is minimal at 2/3) unless the row needs others."""
    a, c, lam = np.array([1.0, 4.0]), np.array([0.0, 1.0]), 2.0
    target = quadratic_minimiser(a, c, lam)
    # s = 1/(L + lam), half of what T5 allows
    settings: dict = dict(rounds=400, lam=lam, eta=0.25, inner_steps=2, inner_step_size=1 / 6)

    def miss(**changes) -> float:
        return abs(quadratic_run(a, c, **(settings | changes))[0][-1] - target)

    def largest_rise(**changes) -> float:
        return float(np.diff(quadratic_run(a, c, **(settings | changes))[1]).max())

    def concave_inner(lam: float) -> float:
        """Where 400 inner steps on -x^2/2 + (lam/2)(x - 1)^2 end: at the prox lam/(lam - 1), or nowhere."""
        bowl: dict = dict(rounds=1, lam=lam, eta=1 / lam, inner_steps=400, inner_step_size=0.1, theta0=1.0)
        return abs(quadratic_run(np.array([-1.0]), np.zeros(1), **bowl)[0][-1])

    def drawn(aggregate: str) -> float:
        rng = np.random.default_rng(seed)
        return largest_rise(tasks_per_round=1, aggregate=aggregate, generator=rng, rounds=60, eta=0.5)

    rows = [
        ("lam > L (concave f)", "T1", "|y| after 400 inner steps, f = -x^2/2, lam = 4 and 0.5",
         concave_inner(4.0), concave_inner(0.5)),
        ("warm start", "T4", "distance of theta to the minimiser of F", miss(), miss(warm_start=False)),
        ("R = 1", "T7", "distance of theta to the minimiser of F, R = 5",
         miss(inner_steps=None), miss(inner_steps=None, local_steps=5)),
        ("meta step over all tasks", "T5", "largest rise of Phi, 1 of 2 drawn, aggregate all and drawn",
         drawn("all"), drawn("drawn")),
        ("s < 2/(L + lam)", "T5", "largest rise of Phi in a round, s = 0.32 and 0.36 (limit 1/3)",
         largest_rise(inner_step_size=0.32), largest_rise(inner_step_size=0.36, rounds=20)),
        ("beta eta lam < 2", "T5", "largest rise of Phi in a round, c = 1.9 and 3",
         largest_rise(eta=0.95), largest_rise(eta=1.5, rounds=20)),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["assumption", "statement", "quantity", "with_it", "without_it"])
