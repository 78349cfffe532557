"""Every statement on runs that meet its conditions, and what breaks when an assumption is dropped."""

import numpy as np
import pytest
from pmeta_course.reproduction.tabular_cells import random_run

from pmeta_lib.tabular import TaskBatch, pmeta, policy_gradients, prox, theory, values
from pmeta_lib.tabular.counterexamples import counter_examples
from pmeta_lib.tabular.families import chain, garnet
from pmeta_lib.tabular.theory import hold, rate, smoothness


@pytest.mark.slow
def test_no_violation_on_a_thousand_random_runs():
    """Each third of the runs meets another set of conditions; every statement must be met somewhere."""
    met, checked = {}, 0
    for seed in range(1000):
        run, L = random_run(seed)
        whole = seed % 3 == 0 or seed % 12 == 2
        for row in hold(run).itertuples() if whole else hold_of_t5(run, L):
            if row.met:
                met[row.statement] = met.get(row.statement, 0) + 1
                checked += 1
                assert row.holds, f"run {seed}: {row.statement}: {row.measured} > {row.bound}"
    for statement in ("T1", "T2", "T3", "T4", "T5", "T6 variance", "T6 mean", "T8", "T9", "T10", "Full"):
        assert sum(n for s, n in met.items() if s.startswith(statement)) >= 3, (statement, met)
    assert checked > 3000


class Row:
    """The T5 rows alone, from the recorded numbers (the rest of `hold` costs proxes and curvatures)."""

    def __init__(self, statement, met, bound, measured):
        self.statement, self.met, self.bound, self.measured = statement, met, bound, measured
        self.holds = measured <= bound + 1e-10


def hold_of_t5(run, L):
    s = run.settings
    met = (
        s["warm_start"] and s["local_steps"] == 1 and s["tasks_per_round"] == len(run.tasks)
        and s["inner_step_size"] * (L + s["lam"]) <= 1 + 1e-12
    )  # fmt: skip
    need = theory.required_decrease(run)
    return [
        Row("T5 fall", met, 0.0, (need + np.diff(run.potential)).max()),
        Row("T5 monotone", met, 0.0, np.diff(run.potential).max()),
        Row("T5 rate", met, (run.potential[0] + 1 / (1 - run.tasks.gamma)) / len(need), need.min()),
    ]


def test_hold_sees_a_violation():
    """A forged run breaks its bound, so the table can fail."""
    runs = (random_run(k) for k in range(1, 400, 3))
    forged = next(run for run, L in runs if hold_of_t5(run, L)[0].met)
    forged.potential[3] += 1.0
    row = hold(forged).set_index("statement").loc["T5 Phi falls by the required amount in each round"]
    assert row.met and not row.holds and row.slack < -0.5


@pytest.mark.parametrize("family", [garnet(0.5), chain()], ids=["garnet", "chain"])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_practical_runs_phi_falls_and_the_slope_is_at_most_minus_one(family, tau):
    tasks = family.train
    theta = 0.1 * np.random.default_rng(0).normal(size=tasks.shape[1:])
    lam = 1.0 / 1.5 if len(tasks) == 2 else 0.1
    run = pmeta(tasks, theta, rounds=200, lam=lam, eta=0.5 / lam, inner_steps=2, inner_step_size=0.5 / lam, tau=tau)
    assert np.diff(run.potential).max() <= 1e-12
    assert rate(run) <= -1.0


def test_floors_of_cold_starts_and_local_steps():
    """With a barrier the problem is well conditioned: warm R = 1 goes to zero, the other two stop above it."""
    tasks = chain().train
    lam, norms = 0.7, {}
    for name, change in {"warm": {}, "cold": {"warm_start": False}, "R=5": {"local_steps": 5}}.items():
        run = pmeta(tasks, 0.1 * np.eye(5, 2), rounds=400, lam=lam, eta=0.5 / lam, inner_steps=2,
                    inner_step_size=0.7, tau=0.5, **change)  # fmt: skip
        x = prox(tasks, run.theta, lam, 0.5)
        norms[name] = np.linalg.norm(lam * (run.theta - x.mean(0)))
    assert norms["warm"] < 1e-7 and norms["cold"] > 1e-4 and norms["R=5"] > 1e-4, norms


def test_smoothness_is_loose_but_never_too_small():
    tasks = garnet(0.5).train
    rng = np.random.default_rng(0)
    found = max(theory.curvature(tasks, rng.normal(size=(20, 4)) * k, rng).max() for k in (0, 1, 3))
    assert found < theory.largest_known_curvature(0.9) < smoothness(tasks) / 1000
    wide = TaskBatch(tasks.P, 5 * tasks.r, tasks.rho, 0.9)
    assert smoothness(wide) == pytest.approx(tasks.r.max() * 5 * 8000)


def test_the_bandit_attains_the_largest_known_curvature():
    bandit = TaskBatch(np.ones((1, 1, 2, 1)), np.array([[[1.0, 0.0]]]), np.ones((1, 1)), 0.9)
    x = np.log((3 - 3**0.5) / (3 + 3**0.5)) + np.linspace(-0.5, 0.5, 5)  # sigma(x) = (3 - sqrt 3)/6
    rng = np.random.default_rng(0)
    found = max(theory.curvature(bandit, np.array([[v, 0.0]]), rng).max() for v in x)
    assert found == pytest.approx(theory.largest_known_curvature(0.9), rel=1e-3)


def test_log_barrier_theorem_where_its_condition_is_met():
    """T9 is about one policy near stationarity of J^tau: there the gap obeys the bound, and is not trivial."""
    tasks, tau = garnet(0.8, n_train=4, n_test=1, states=5, actions=3).train, 0.05
    theta = prox(tasks, np.zeros((5, 3)), 1e-9, tau)
    slope = np.sqrt((policy_gradients(tasks, theta, tau) ** 2).sum((1, 2)))
    assert (slope <= theory.barrier_threshold(tasks, tau)).all()
    gap = theory.optimal_values(tasks) - values(tasks, theta)
    assert (gap <= theory.barrier_bound(tasks, tau)).all() and (gap > 0).all()
    point = TaskBatch(tasks.P, tasks.r, np.eye(5)[[0] * 4], 0.9)
    assert np.isinf(theory.barrier_bound(point, tau)).all()  # a point start breaks the assumption


def test_certificate_holds_and_can_be_tight_enough_to_use(make):
    t = make(1, N=4, S=3, A=2, gamma=0.5)
    theta = prox(t, np.zeros((3, 2)), 1e-4)
    slope = 1e-4 * np.sqrt((theta**2).sum((1, 2)))
    gap = theory.optimal_values(t) - values(t, theta)
    bound = theory.certificate(t, theta, slope)
    assert (gap <= bound).all() and (bound < 1 / (1 - t.gamma)).all()


def test_sampling_variance_by_simulation():
    g = np.random.default_rng(0).normal(size=(7, 3, 2))
    rng = np.random.default_rng(1)
    means = np.stack([g[rng.choice(7, 3, replace=False)].mean(0) for _ in range(20_000)])
    spread = ((means - g.mean(0)) ** 2).sum((1, 2)).mean()
    assert theory.sampling_variance(g, 3) == pytest.approx(spread, rel=0.03)
    assert theory.sampling_variance(g, 7) == 0 and theory.sampling_variance(g[:1], 1) == 0


def test_counter_examples_break_exactly_when_the_assumption_is_dropped():
    table = counter_examples().set_index("assumption")
    assert table.with_it["lam > L (concave f)"] == pytest.approx(4 / 3) and (
        table.without_it["lam > L (concave f)"] > 1e6
    )
    for name in ("warm start", "R = 1"):
        assert table.with_it[name] < 1e-12 and table.without_it[name] > 0.01
    for name in ("no stale tasks (n = N)", "s <= 1/(L + lam)", "beta eta lam < 2"):
        assert table.with_it[name] < 1e-12 and table.without_it[name] > 0.01
    assert table.without_it["R = 1"] == pytest.approx(2 / 3 - 0.5921248794, abs=1e-9)


def test_hold_refuses_other_learners():
    from pmeta_lib.tabular import joint

    with pytest.raises(ValueError, match="pmeta run"):
        hold(joint(chain().train, np.zeros((5, 2)), rounds=2))
    with pytest.raises(ValueError, match=r"^L is 0"):
        hold(random_run(1)[0], L=0.0)
