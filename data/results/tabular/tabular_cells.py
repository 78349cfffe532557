"""What the tabular experiments measure: `CELLS[kind](cell) -> rows`, a pure function of a small dict.

Fairness: every learner spends the same number of gradient evaluations a task (a Hessian-vector product counts
as one, adaptation and fine-tuning included) and is tuned over a grid of fifteen settings on tuning seeds that
no result uses. Step sizes are in units of the family (`unit`), computed from its tasks, not chosen by hand.
"""

from functools import lru_cache

import numpy as np
from pmeta_course.counterexamples import quadratic_run
from pmeta_course.theory import bandit_smoothness, hold, slope, smoothness
from tabular_quadratics import SETTINGS, quadratic_statements, quadratics

from pmeta_lib.files import json_text
from pmeta_lib.tabular import (
    LEARNERS,
    History,
    TaskBatch,
    adapt,
    conflict_rate,
    envelope_gradients,
    optimal_values,
    pmeta,
    policy_gradients,
    sampled,
    values,
)
from pmeta_lib.tabular import families as f
from pmeta_lib.tabular.policies import Oracle, exact

FAMILIES = {
    "garnet": lambda seed, h=0.5: f.garnet(h, seed=seed),
    "gridworld": lambda seed: f.gridworld(seed=seed),
    "gridworld-corners": lambda seed: f.gridworld(layout="corners"),
    "chain": lambda seed: f.chain(),
    "frozen-lake-goals": lambda seed: f.frozen_lake("goals", seed=seed),
    "frozen-lake-maps": lambda seed: f.frozen_lake("maps", seed=seed),
    "frozen-lake-slip": lambda seed: f.frozen_lake("slip", seed=seed),
    "cliff-walking": lambda seed: f.cliff_walking(seed=seed),
    "taxi": lambda seed: f.taxi(seed=seed),
}
NAMES = [
    "independent", "joint", "joint+ft", "pcgrad", "pcgrad+ft", "reptile", "reptile+ft", "fomaml", "maml",
    "maml+ft", "pmeta", "pmeta+ft",
]  # fmt: skip
BLOCK = 50  # random runs a theory cell
BUDGET = 60  # gradient evaluations a task
TRAJECTORIES, HORIZON = 2, 40  # of the sampled gradients: 2 rollouts a task and evaluation
ADAPTATION_STEPS = (0, 1, 5, 20)
HETEROGENEITY = [0.15, 0.3, 0.45, 0.6, 0.8]
PULLS = [0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]  # lam times the unit, for the sweep over lam
VARIANTS = {
    "warm, R = 1": {},
    "cold, R = 1": {"warm_start": False},
    "warm, R = 5": {"local_steps": 5},
    "warm, R = 1, half the tasks": {"half": True},
    "warm, R = 1, half the tasks, meta step over all": {"half": True, "aggregate": "all"},
}


@lru_cache(maxsize=64)
def _place(name: str, seed: int, h: float | None) -> tuple[f.Family, tuple, tuple]:
    """A family and, for its training and its test tasks, the returns of the uniform and the best policy."""
    family = FAMILIES[name](seed) if h is None else FAMILIES[name](seed, h=h)
    return family, _ends(family.train), _ends(family.test)


def _ends(tasks: TaskBatch) -> tuple[np.ndarray, np.ndarray]:
    return values(tasks, np.zeros(tasks.shape[1:])), optimal_values(tasks)


def unit(tasks: TaskBatch, ends: tuple | None = None) -> float:
    """Natural step size: 10 on Garnet; inverse to the gap uniform-to-optimal and to the mean occupancy."""
    low, best = _ends(tasks) if ends is None else ends
    gap = (best - low).mean()
    return 10.0 * (2.3 / gap) * tasks.shape[1] * (1 - tasks.gamma) / 2.0


def grid(learner: str, noisy: bool) -> list[dict]:
    """Fifteen settings of a learner; `step` is in units, `pull` is lam times the unit.

    Noise asks for smaller steps, and for the smallest in MAML, whose outer gradient multiplies two noisy ones.
    """
    base = 0.3 if noisy else 1.0
    if learner in ("independent", "joint", "pcgrad", "scratch"):
        return [{"step": float(x)} for x in base * np.geomspace(0.3, 15.0 if noisy else 300.0, 15)]
    steps = [0.3, 0.6, 1.2, 2.4, 4.8] if noisy else [1.0, 3.0, 10.0, 30.0, 100.0]
    if noisy and "maml" in learner:
        steps = [0.03, 0.08, 0.2, 0.5, 1.2]
    second = {
        "pmeta": [{"pull": x} for x in ((0.02, 0.06, 0.18) if noisy else (0.01, 0.05, 0.25))],
        "pmeta+ft": [{"pull": x} for x in ((0.06, 0.18, 0.54) if noisy else (0.05, 0.25, 1.0))],
        "reptile": [{"eta": x} for x in (0.3, 0.6, 1.0)],
        "maml": [{"outer": x * base} for x in (1.0, 3.0, 10.0)],
    }
    second |= {"reptile+ft": second["reptile"], "fomaml": second["maml"], "maml+ft": second["maml"]}
    second["joint+ft"] = second["pcgrad+ft"] = [{"share": x} for x in (0.3, 0.55, 0.8)]
    return [{"step": s} | other for other in second[learner] for s in steps]


def train(
    learner: str,
    tasks: TaskBatch,
    theta0: np.ndarray,
    setting: dict,
    oracle: Oracle,
    budget: int = BUDGET,
    ends: tuple | None = None,
) -> tuple[History, np.ndarray]:
    """Spend `budget` evaluations a task; the run and the policies (N, S, A) deployed at the end.

    "+ft": the last `share` (0.3 unless tuned) of the budget fine-tunes each task's policy alone. MAML and
    Reptile deploy after the K inner steps they were trained for, out of the same budget.
    """
    name, u = learner.removesuffix("+ft"), unit(tasks, ends)
    step, K = setting["step"] * u, 1 if "maml" in learner else 5
    cost = K + {"fomaml": 1, "maml": 1 + K}.get(name, 0)
    tail = round(setting.get("share", 0.3) * budget) if learner.endswith("+ft") else 0
    if name in ("maml", "fomaml", "reptile"):
        tail = max(tail, K)
    keywords = {"rounds": (budget - tail) // cost, "inner_steps": K, "inner_step_size": step, "oracle": oracle}
    if name == "pmeta":
        lam = setting["pull"] / u
        keywords |= {"lam": lam, "eta": 1.0 / lam if lam else 0.0, "inner_step_size": step / (1 + step * lam)}
    elif name == "reptile":
        keywords["eta"] = setting["eta"]
    elif "maml" in name:
        keywords["eta"] = setting["outer"] * u
    run = LEARNERS[name](tasks, theta0, **keywords)
    if not tail:
        return run, run.personal
    start = run.personal if name in ("pmeta", "joint", "pcgrad") else run.theta
    return run, adapt(tasks, start, steps=tail, step_size=step, oracle=oracle)[0]


def _setup(cell: dict) -> tuple:
    """Family, initial parameters and oracle of a cell: all functions of its seed."""
    family, ends, test_ends = _place(cell["family"], cell["seed"], cell.get("h"))
    rng = np.random.default_rng([cell["seed"], 20_917])
    theta0 = 0.1 * rng.standard_normal(family.train.shape[1:])
    return family, theta0, sampled(TRAJECTORIES, HORIZON, rng) if cell["noisy"] else exact, ends, test_ends


def cancellation(tasks: TaskBatch, theta: np.ndarray) -> float:
    """How much of the tasks' gradients at the shared `theta` (S, A) cancels in their mean: 1 - norm of the mean / mean
    of the norms, 0 if they agree (or all vanish), 1 if nothing is left."""
    g = policy_gradients(tasks, theta).reshape(len(tasks), -1)
    norms = np.linalg.norm(g, axis=1).mean()
    return float(1.0 - np.linalg.norm(g.mean(0)) / norms) if norms > 1e-14 else 0.0


def score(cell: dict) -> list[dict]:
    """Train one learner with one setting; normalised return (0 uniform, 100 optimal) of what it deploys."""
    family, theta0, oracle, (low, best), _ = _setup(cell)
    run, deployed = train(cell["learner"], family.train, theta0, cell["setting"], oracle, ends=(low, best))

    def normalised(theta: np.ndarray) -> np.ndarray:
        return 100.0 * (values(family.train, theta) - low) / (best - low)

    final = normalised(deployed)
    row = {
        "setting": json_text(cell["setting"]), "lam": run.settings["lam"],
        "deployed": final.mean(), "worst_task": final.min(),
        "meta_policy": normalised(run.theta).mean(),
        "conflict": conflict_rate(family.train, run.theta), "conflict_start": conflict_rate(family.train, theta0),
        "cancellation": cancellation(family.train, run.theta),
    }  # fmt: skip
    return [_labels(cell) | row]


def _labels(cell: dict) -> dict:
    return {k: cell[k] for k in ("family", "h", "noisy", "learner", "seed") if k in cell}


def adaptation(cell: dict) -> list[dict]:
    """Held-out tasks after 0, 1, 5, 20 steps from a learner's theta; `scratch` starts at theta0.

    One step size for all learners (`cell["adapt_step"]`, in units of the training tasks): the best for
    scratch after five steps on the tuning seeds.
    """
    family, theta0, oracle, ends, (low, best) = _setup(cell)
    theta = theta0
    if cell["learner"] != "scratch":
        theta = train(cell["learner"], family.train, theta0, cell["setting"], oracle, ends=ends)[0].theta
    step_size = cell["adapt_step"] * unit(family.train, ends)
    _, curve = adapt(family.test, theta, steps=max(ADAPTATION_STEPS), step_size=step_size, oracle=oracle)
    scores = 100 * ((curve - low) / (best - low)).mean(1)
    return [_labels(cell) | {"steps": k, "adapted": scores[k]} for k in ADAPTATION_STEPS]


def bandits(rng: np.random.Generator, N: int, gamma: float, conflict: bool = True) -> TaskBatch:
    """N two-armed bandits, whose arms differ by 0.3 to 1; in conflict the better arm alternates."""
    r = np.zeros((N, 1, 2))
    r[np.arange(N), 0, np.arange(N) % 2 * conflict] = rng.uniform(0.3, 1.0, N)
    return TaskBatch(np.ones((N, 1, 2, 1)), r, np.ones((N, 1)), gamma)


def convergence(cell: dict) -> list[dict]:
    """Phi, the norm that the meta step follows, and the true norm of grad F, at log-spaced rounds.

    `true_gradient_slope`: log-log slope of the best squared *true* norm over 100 log-spaced rounds; `slope`: of the
    followed one. `finite`: the solutions are finite (exact constants or a barrier), so that floors can show.
    """
    variant, rounds, tau = dict(VARIANTS[cell["variant"]]), cell["rounds"], cell["tau"]
    name, rng = cell["family"], np.random.default_rng([cell["seed"], 4])
    half = variant.pop("half", False)
    variant["generator"] = np.random.default_rng(cell["seed"])
    fine = np.unique(np.geomspace(1, rounds, 100).round().astype(int))
    if name == "quadratics":  # L is known, and F in closed form
        a, c, lam = *quadratics(rng, 4), 2.0
        variant |= {"tasks_per_round": 2} if half else {}
        thetas, potential = quadratic_run(
            a, c, rounds=rounds, lam=lam, eta=0.5 / lam, inner_steps=cell["inner_steps"],
            inner_step_size=1 / (a.max() + lam), theta0=3.0, **variant,
        )  # fmt: skip
        k = a * lam / (a + lam)
        true = np.abs((k * (thetas[fine, None] - c)).mean(1))
        followed = lam * np.abs(np.diff(thetas)) / 0.5  # theta moves by eta lam = 0.5 of what it follows
    else:
        if name == "bandits":  # lam at a tenth of the exact L: the bandits keep policies of their own
            tasks = bandits(rng, 4, 0.9)
            theta0, lam = 0.1 * rng.standard_normal((1, 2)), 0.1 * bandit_smoothness(tasks)
            step = 1 / (11 * lam)
        else:
            family, theta0, *_ = _setup(cell | {"noisy": False})
            tasks, u = family.train, unit(family.train)
            lam, step = cell["pull"] / u, u / (1 + cell["pull"])
        variant |= {"tasks_per_round": len(tasks) // 2} if half else {}
        run = pmeta(
            tasks, theta0, rounds=rounds, lam=lam, eta=0.5 / lam, inner_steps=cell["inner_steps"],
            inner_step_size=step, tau=tau, trace=True, **variant,
        )  # fmt: skip
        potential, followed = run.potential, run.gradient_norm
        many = tasks[np.tile(np.arange(len(tasks)), len(fine))]
        at = np.repeat(run.trace["theta"][fine], len(tasks), 0)
        gradients = envelope_gradients(many, at, lam, tau).reshape(len(fine), len(tasks), -1)
        true = np.linalg.norm(gradients.mean(1), axis=1)
    best, t = np.minimum.accumulate(followed), np.arange(1, rounds + 1)
    known = name in ("quadratics", "bandits")
    common = {
        "family": name, "tau": tau, "variant": cell["variant"], "seed": cell["seed"],
        "slope": slope(t, followed**2), "true_gradient_slope": slope(fine, true**2),
        "largest_rise": float(np.diff(potential).max()), "exact_constants": known, "finite": known or tau > 0,
    }  # fmt: skip
    shown = np.searchsorted(fine, np.unique(np.geomspace(1, rounds, 14).round().astype(int)).clip(max=fine[-1]))
    return [
        common | {"round": int(fine[m]), "potential": potential[fine[m]], "followed_norm": followed[fine[m] - 1],
                  "best_norm": best[fine[m] - 1], "true_norm": float(true[m])}
        for m in np.unique(shown)
    ]  # fmt: skip


def random_run(seed: int) -> tuple[History, float]:
    """A small random pmeta run and the proven L; a third each: lam > L, any lam with s of T5, any settings."""
    rng = np.random.default_rng([seed, 31])
    kind, N, A = seed % 3, int(rng.integers(1, 6)), int(rng.integers(2, 4))
    S = int(rng.integers(2, 6))
    P = rng.dirichlet(np.full(S, rng.uniform(0.2, 2)), (N, S, A))
    r, rho = rng.random((N, S, A)), rng.dirichlet(np.ones(S), N)
    if seed % 10 == 0:  # full conflict
        N, P, r, rho = 2, np.stack([P[0], P[0]]), np.stack([r[0], 1 - r[0]]), np.stack([rho[0], rho[0]])
    gamma = float(rng.choice([0.0, 0.3, 0.6, 0.9]))
    tasks = TaskBatch(P, r, rho, gamma)
    tau = float(rng.choice([0.0, 0.0, 0.3]))
    L = smoothness(tasks, tau)
    lam = L * 10 ** rng.uniform(0.04, 1.5) if kind == 0 else 10 ** rng.uniform(-3, 1)
    step = 1 / (L + lam) if kind < 2 else 10 ** rng.uniform(-1, 1) / (1 + lam * 10)
    share = rng.uniform(0.2, 1.0) if kind == 0 else rng.uniform(0.1, 1.9)
    n = N if seed % 2 else int(rng.integers(1, N + 1))
    run = pmeta(
        tasks, rng.normal(size=(S, A)), rounds=10, lam=lam, eta=share / lam, tau=tau, trace=True,
        inner_steps=int(rng.integers(1, 9)), inner_step_size=step, local_steps=1 + (seed % 7 == 0),
        warm_start=seed % 5 > 0, tasks_per_round=n, generator=rng,
    )  # fmt: skip
    return run, L


def bandit_run(seed: int) -> tuple[History, float]:
    """A random pmeta run on two-armed bandits, whose L is known exactly; three in four with lam > L."""
    rng = np.random.default_rng([seed, 32])
    N, rounds, everyone = int(rng.integers(2, 5)), int(rng.choice([3, 30, 150])), seed % 5 < 3
    tasks = bandits(rng, N, float(rng.choice([0.0, 0.5, 0.9])), conflict=bool(seed % 3))
    L = bandit_smoothness(tasks)
    lam = L * 10 ** (rng.uniform(0.3, 1.0) if seed % 4 else rng.uniform(-2.0, -0.1))
    exact_prox = everyone and seed % 2 == 0  # only then may c = eta lam exceed 2, as T3 allows
    eta = rng.uniform(0.3, 1.0) * (1 / lam + 1 / L) if exact_prox else rng.uniform(0.2, 1.0 + 0.9 * everyone) / lam
    run = pmeta(
        tasks, rng.normal(size=(1, 2)), rounds=rounds, lam=lam, eta=eta,
        inner_steps=60 if exact_prox else int(rng.integers(1, 9)),
        inner_step_size=(1.0 if exact_prox else rng.uniform(0.2, 1.9)) / (L + lam), trace=True,
        warm_start=seed % 7 > 1, tasks_per_round=N if everyone else int(rng.integers(1, N)),
        aggregate="all" if seed % 5 == 3 else "drawn", generator=rng,
    )  # fmt: skip
    return run, L


def theory(cell: dict) -> list[dict]:
    """Every statement on BLOCK random runs: which conditions were met, which bounds were violated, and by what margin.

    Random MDPs with the proven L of T8; two-armed bandits and quadratics with their exact constants.
    """
    rows = []
    for seed in range(cell["seed"] * BLOCK, (cell["seed"] + 1) * BLOCK):
        if cell["setting"] == "quadratics":
            found = quadratic_statements(seed)
        else:
            run, L = random_run(seed) if cell["setting"] == "random MDPs" else bandit_run(seed)
            found = hold(run, L).to_dict("records")
        rows += [
            {"setting": cell["setting"], "run": SETTINGS[cell["setting"]] + seed}
            | {k: row[k] for k in ("statement", "met", "bound", "measured", "margin", "holds")}
            | {"exact_constants": cell["setting"] != "random MDPs"}
            for row in found
        ]
    return rows


CELLS = {"score": score, "adaptation": adaptation, "convergence": convergence, "theory": theory}
