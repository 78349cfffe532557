"""Every statement on runs that meet its conditions, and what breaks when an assumption is dropped."""

import numpy as np
import pytest
from pmeta_course import theory
from pmeta_course.counterexamples import (
    counter_examples,
    effective_lam,
    quadratic_fixed_point,
    quadratic_minimiser,
    quadratic_run,
)
from pmeta_course.theory import hold, rate, smoothness
from tabular_cells import bandit_run, bandits, random_run
from tabular_quadratics import quadratic_statements

from pmeta_lib.tabular import TaskBatch, pmeta, policy_gradients, prox, values
from pmeta_lib.tabular.families import chain, garnet


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
        and s["inner_step_size"] * (L + s["lam"]) < 2
    )  # fmt: skip
    need = theory.required_decrease(run, L)
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


@pytest.mark.parametrize(("family", "lam", "step"), [(garnet(1.0, n_train=4, n_test=1), 0.1, 4.0), (chain(), 0.3, 0.5)])
def test_phi_never_rises_under_sampling_if_the_meta_step_runs_over_all_tasks(family, lam, step):
    """T5 with one or two tasks drawn: 0 of 300 rounds; with the mean over the drawn tasks, in dozens of them."""
    tasks, rises = family.train, {}
    settings = dict(rounds=300, lam=lam, eta=1 / lam, inner_steps=3, inner_step_size=step)
    for aggregate in ("all", "drawn"):
        for seed in range(3):
            run = pmeta(tasks, np.zeros(tasks.shape[1:]), **settings, tasks_per_round=len(tasks) // 2,
                        aggregate=aggregate, generator=np.random.default_rng(seed))  # fmt: skip
            rises[aggregate, seed] = int((np.diff(run.potential) > 1e-12).sum())
            if aggregate == "all":
                need = theory.required_decrease(run, 1.0 / step - lam)  # an L for which s = 1/(L + lam)
                assert (np.diff(run.potential) <= -need + 1e-10).all()
    assert all(rises["all", s] == 0 and rises["drawn", s] > 30 for s in range(3)), rises


def test_one_round_over_all_stored_policies_by_hand():
    """Two tasks, one drawn: the absent one's stored y still pulls theta, with w moved once for each local step."""
    tasks = bandits(np.random.default_rng(0), 2, 0.5)
    for R in (1, 3):
        run = pmeta(tasks, np.zeros((1, 2)), rounds=4, lam=0.2, eta=2.0, beta=0.7, inner_steps=2, inner_step_size=0.5,
                    local_steps=R, tasks_per_round=1, aggregate="all", generator=np.random.default_rng(3),
                    trace=True)  # fmt: skip
        draws = np.random.default_rng(3)
        for t in range(4):
            theta, y = run.trace["theta"][t], run.trace["personal"][t].copy()
            drawn, w = int(draws.choice(2, 1, replace=False)[0]), np.stack([theta, theta])
            for _ in range(R):
                for _ in range(2):
                    slope = policy_gradients(tasks, y)[drawn] - 0.2 * (y[drawn] - w[drawn])
                    y[drawn] = y[drawn] + 0.5 * slope
                w = w - 0.4 * (w - y)
            np.testing.assert_allclose(run.trace["personal"][t + 1], y, atol=1e-14)
            np.testing.assert_allclose(run.trace["theta"][t + 1], 0.3 * theta + 0.7 * w.mean(0), atol=1e-14)


def test_everybody_drawn_makes_both_aggregates_one():
    tasks = chain().train
    settings = dict(rounds=5, lam=0.2, eta=3.0, inner_steps=2, inner_step_size=0.4, local_steps=2)
    runs = [pmeta(tasks, np.eye(5, 2), **settings, aggregate=a) for a in ("drawn", "all")]
    np.testing.assert_array_equal(runs[0].theta, runs[1].theta)
    with pytest.raises(ValueError, match="Did you mean 'drawn'"):
        pmeta(tasks, np.eye(5, 2), **settings, aggregate="drwan")


def test_sampled_rate_uses_the_runs_own_step():
    """Two equal bandits, lambda = 11 L, K = 3 steps of 1e-6: nothing is solved, and nothing is called violated."""
    tasks = bandits(np.random.default_rng(1), 1, 0.9)[[0, 0]]
    L = theory.bandit_smoothness(tasks)
    for draw in range(3):
        run = pmeta(tasks, np.zeros((1, 2)), rounds=400, lam=11 * L, eta=1 / (11 * L), inner_steps=3, trace=True,
                    inner_step_size=1e-6, tasks_per_round=1, generator=np.random.default_rng(draw))  # fmt: skip
        row = hold(run, L, draws=2).set_index("statement").loc["T6 mean ||grad F||^2 (in expectation)"]
        assert row.met and row.holds and row.measured > 0.1, row
        gap, alpha = 1 / (1 - tasks.gamma), 1 / (11 * L)
        if draw == 0:  # the bound without the inner error would have been violated
            assert row.measured > theory.descent_bound(0.5 * gap * np.ptp(tasks.r[0]), alpha, 400)


def test_inner_steps_contract_as_the_runs_own_step_makes_them():
    for s, factor in ((0.01, 0.98), (1 / 3, 1 / 3), (0.45, 0.8)):  # L = 1, lam = 3: s = 1/lam gives L/lam
        assert theory.inner_contraction(1.0, 3.0, 1, s) == pytest.approx(factor)
        worst = max(abs(1 - s * (3.0 + bend)) for bend in (-1.0, 1.0))
        assert theory.inner_contraction(1.0, 3.0, 4, s) == pytest.approx(worst**4)


@pytest.mark.parametrize(("eta_lam", "end"), [(1.0, 0.534216), (0.5, 0.592125), (0.1, 0.651711), (0.01, 0.665184)])
def test_local_steps_end_at_the_exact_fixed_point_of_quadratics(eta_lam, end):
    a, c, lam, eta = np.array([1.0, 4.0]), np.array([0.0, 1.0]), 2.0, eta_lam / 2
    ran = quadratic_run(a, c, rounds=3000, lam=lam, eta=eta, inner_steps=None, local_steps=5)[0][-1]
    assert ran == pytest.approx(quadratic_fixed_point(a, c, lam, eta, 5), abs=1e-10) == pytest.approx(end, abs=1e-6)
    softer = quadratic_minimiser(a, c, effective_lam(lam, eta, 5))
    assert abs(softer - ran) < 0.6 * eta**2 + 1e-12 and abs(softer - ran) < abs(2 / 3 - ran)
    assert quadratic_fixed_point(a, c, lam, eta, 1) == pytest.approx(2 / 3)


def test_with_exact_constants_a_bound_shrunk_tenfold_would_be_violated():
    """Quadratics (bandits: the stored table): nothing is violated, and each smallest margin lies between 1 and 10."""
    rows = [row for seed in range(20) for row in quadratic_statements(seed)]
    for statement in ("T3", "T4 mean", "T4 K inner", "T5 Phi", "T6 mean"):
        mine = [row for row in rows if row["statement"].startswith(statement)]
        assert len(mine) == 20 and all(row["holds"] for row in mine)
        assert 0.999 < min(row["margin"] for row in mine) < 10, statement
    run, L = bandit_run(9)  # lam > L, one of several tasks drawn
    row = hold(run, L, draws=3).set_index("statement").loc["T6 mean ||grad F||^2 (in expectation)"]
    assert row.met and row.holds and row.margin == pytest.approx(row.bound / row.measured)


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
    assert found < bandit_limit(0.9) < smoothness(tasks) / 1000
    wide = TaskBatch(tasks.P, 5 * tasks.r, tasks.rho, 0.9)
    assert smoothness(wide) == pytest.approx(tasks.r.max() * 5 * 8000)


def bandit_limit(gamma):
    return 1 / (3 * 3**0.5 * (1 - gamma))


def test_the_bandit_attains_its_smoothness():
    bandit = TaskBatch(np.ones((1, 1, 2, 1)), np.array([[[1.0, 0.0]]]), np.ones((1, 1)), 0.9)
    x = np.log((3 - 3**0.5) / (3 + 3**0.5)) + np.linspace(-0.5, 0.5, 5)  # sigma(x) = (3 - sqrt 3)/6
    rng = np.random.default_rng(0)
    found = max(theory.curvature(bandit, np.array([[v, 0.0]]), rng).max() for v in x)
    assert found == pytest.approx(theory.bandit_smoothness(bandit), rel=1e-3)
    assert theory.bandit_smoothness(bandit) == pytest.approx(bandit_limit(0.9))
    with pytest.raises(ValueError, match="two-armed"):
        theory.bandit_smoothness(chain().train)


def test_a_chain_is_more_curved_than_the_bandit():
    tasks = chain(79, 0.0, 0.9999).train[0]
    theta = np.tile([0.0335 / 2, -0.0335 / 2], (79, 1))  # a slight drift to the left
    found = theory.curvature(tasks, theta, np.random.default_rng(0), steps=200)[0]
    assert 10 < found / bandit_limit(0.9999) < 20


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
    halfway = theta / 2  # no prox: lam ||theta_i - theta|| alone certifies too much, the residual repairs it
    gap = theory.optimal_values(t) - values(t, halfway)
    pull = 1e-4 * np.sqrt((halfway**2).sum((1, 2)))
    residual = np.sqrt(((policy_gradients(t, halfway) - 1e-4 * halfway) ** 2).sum((1, 2)))
    assert (gap > theory.certificate(t, halfway, pull)).any()
    assert (gap <= theory.certificate(t, halfway, pull + residual)).all()


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
    for name in ("meta step over all tasks", "s < 2/(L + lam)", "beta eta lam < 2"):
        assert table.with_it[name] < 1e-12 and table.without_it[name] > 0.01
    assert table.without_it["R = 1"] == pytest.approx(2 / 3 - 0.5921248794, abs=1e-9)


def test_hold_refuses_other_learners():
    from pmeta_lib.tabular import joint

    with pytest.raises(ValueError, match="pmeta run"):
        hold(joint(chain().train, np.zeros((5, 2)), rounds=2))
    with pytest.raises(ValueError, match=r"^L is 0"):
        hold(random_run(1)[0], L=0.0)
