"""The stored results are what the code computes today; the command resumes and refuses."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pmeta_lib.errors import UserError
from pmeta_lib.experiments import tabular, tabular_cells
from pmeta_lib.report.statistics import bootstrap_interval, paired_interval, spearman_interval
from pmeta_lib.report.tabular import load, summarise

STORED = Path(__file__).parents[2] / "data/results/tabular"


def recompute(row, **more):
    cell = {"kind": "score", "family": row.family, "noisy": bool(row.noisy), "learner": row.learner}
    cell |= {"seed": int(row.seed)} | ({"h": float(row.h)} if np.isfinite(getattr(row, "h", np.nan)) else {})
    return cell | more


@pytest.mark.parametrize("name", ["comparison", "headline", "conflict", "lambda"])
def test_a_sample_of_stored_scores_is_reproduced(name):
    table = pd.read_parquet(STORED / f"{name}.parquet")
    cheap = table[table.family != "taxi"]
    for row in cheap.sample(3, random_state=1).itertuples():
        new = tabular_cells.score(recompute(row, setting=json.loads(row.setting)))[0]
        for column in ("deployed", "worst_task", "meta_policy", "conflict"):
            assert new[column] == pytest.approx(getattr(row, column), abs=1e-6), (row, column)


def test_a_sample_of_stored_adaptation_is_reproduced():
    table = pd.read_parquet(STORED / "adaptation.parquet")
    assert set(table.steps) == {0, 1, 5, 20} and "scratch" in set(table.learner)
    chosen = json.loads((STORED.parents[1] / "tuning/tabular/chosen.json").read_text())
    by_key = {json.dumps(tabular_cells._labels(c), sort_keys=True): c for c in tabular.plan("adaptation", chosen)}
    labels = [c for c in table if c not in ("steps", "adapted")]
    garnet = table[(table.family == "garnet") & (table.steps == 5)]
    for _, row in garnet.sample(2, random_state=2).iterrows():
        key = {k: row[k] for k in labels if not (k == "h" and np.isnan(row[k]))}
        key |= {"noisy": bool(row.noisy), "seed": int(row.seed)}
        cell = by_key[json.dumps(key, sort_keys=True)]
        new = {r["steps"]: r["adapted"] for r in tabular_cells.adaptation(cell)}
        assert new[5] == pytest.approx(row.adapted, abs=1e-6)
    steps = {(tabular._place(c), c["adapt_step"]) for c in by_key.values()}
    assert len(steps) == len({place for place, _ in steps})  # one step size for all learners of a place


def test_stored_theory_has_a_thousand_runs_and_no_violation():
    table = pd.read_parquet(STORED / "theory.parquet")
    assert table.run.nunique() == 1000 and not table.holds.eq(False).any()


def test_stored_convergence_obeys_the_theorem():
    table = pd.read_parquet(STORED / "convergence.parquet")
    warm = table[table.variant == "warm, R = 1"]
    assert warm.largest_rise.max() < 1e-10 and warm.slope.max() <= -1


def test_the_claims_numbers():
    """C1: conflict and both deficits rise with h; the headline: pMeta above independent and joint, sampled."""
    summary = summarise(load(STORED))
    for name in ("conflict_at_joint", "deficit_joint", "deficit_maml"):
        correlation, low, _ = summary["conflict"][name]
        assert correlation > 0.8 and low > 0, name
    paired = {(r["gradients"], r["h"], r["a"], r["b"]): r["difference"] for r in summary["headline"]}
    for h in (0.3, 0.45):
        for other in ("independent", "joint"):
            assert paired["sampled", h, "pmeta", other][1] > 0, (h, other)
        assert paired["exact", h, "pmeta", "independent"][0] < 0  # without noise there is nothing to share


def test_seeds_of_tuning_and_results_are_apart():
    for name in ("comparison", "headline", "conflict", "lambda", "adaptation"):
        assert not set(pd.read_parquet(STORED / f"{name}.parquet").seed) & set(tabular.TUNING_SEEDS)
    tried = pd.read_parquet(STORED.parents[1] / "tuning/tabular/tuning.parquet")
    assert set(tried.seed) == set(tabular.TUNING_SEEDS)
    grids = tried.groupby(["noisy", "family", "learner"]).setting.nunique()
    assert (grids == 12).all()  # equal tuning effort


@pytest.mark.parametrize("noisy", [True, False])
def test_grids_have_equal_size(noisy):
    for name in tabular_cells.NAMES:
        settings = {json.dumps(s, sort_keys=True) for s in tabular_cells.grid(name, noisy)}
        assert len(settings) == 12, name


def test_budgets_are_kept():
    """No learner gets more gradient evaluations than the budget, whatever its pieces cost."""
    family = tabular_cells.FAMILIES["chain"](0)
    spent = []

    def counting(tasks, theta, tau=0.0):
        spent[-1] += 1
        gradient, product = tabular_cells.exact(tasks, theta, tau)

        def counted(v):
            spent[-1] += 1
            return product(v)

        return gradient, counted

    for name in tabular_cells.NAMES:
        spent.append(0)
        tabular_cells.train(name, family.train, np.zeros((5, 2)), tabular_cells.grid(name, False)[0], counting)
        assert 0.9 * tabular_cells.BUDGET <= spent[-1] <= tabular_cells.BUDGET, (name, spent[-1])


def test_compute_resumes_from_its_journal(tmp_path, monkeypatch):
    cells = [{"kind": "toy", "x": k} for k in range(4)]
    calls = []

    def toy(cell):
        calls.append(cell["x"])
        if cell["x"] == 2 and len(calls) < 4:
            raise KeyboardInterrupt
        return [{"y": np.float64(cell["x"] ** 2)}]

    monkeypatch.setitem(tabular_cells.CELLS, "toy", toy)
    journal = tmp_path / "toy.jsonl"
    with pytest.raises(KeyboardInterrupt):
        tabular.compute("toy", cells, journal, 1)
    with journal.open("a") as half_written:
        half_written.write('{"key": "abc", "ro')
    rows = tabular.compute("toy", cells, journal, 1)
    assert calls == [0, 1, 2, 2, 3] and [r[0]["y"] for r in rows] == [0, 1, 4, 9]


def test_choose_takes_the_best_mean():
    cells = [{"kind": "score", "family": "chain", "noisy": False, "learner": "joint", "setting": {"step": s}, "seed": k}
             for s in (1.0, 2.0) for k in (0, 1)]  # fmt: skip
    rows = [[{"deployed": v}] for v in (10.0, 20.0, 5.0, 30.0)]
    assert tabular.choose(cells, rows) == {"chain/exact": {"joint": {"step": 2.0}}}


def test_the_command_refuses_mistakes(tmp_path):
    def run(*words):
        parser = argparse.ArgumentParser()
        tabular.configure(parser)
        return tabular.main(parser.parse_args(words))

    with pytest.raises(UserError, match=r"headlin.*Did you mean 'headline'"):
        run("--only", "headlin", "--out", str(tmp_path))
    with pytest.raises(UserError, match="--jobs"):
        run("--jobs", "0", "--out", str(tmp_path))
    with pytest.raises(UserError, match="--out"):
        run("--smoke")


def test_intervals():
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 1.0, 200)
    mean, low, high = bootstrap_interval(x, np.random.default_rng(1))
    assert low < mean < high and mean == pytest.approx(x.mean())
    assert high - low == pytest.approx(2 * 1.96 * x.std() / np.sqrt(200), rel=0.1)
    assert bootstrap_interval(x, np.random.default_rng(1)) == (mean, low, high)
    noise = rng.normal(0, 10, 200)  # pairing removes what both have in common
    _, low, high = paired_interval(x + noise, noise, np.random.default_rng(1))
    assert 0.7 < low < high < 1.3
    h = np.arange(5.0)
    assert spearman_interval(h, rng.normal(size=(10, 5)) * 0.1 + h, np.random.default_rng(1))[1:] == (1.0, 1.0)
    flat = spearman_interval(h, rng.normal(size=(10, 5)), np.random.default_rng(1))
    assert flat[1] < 0 < flat[2]
    with pytest.raises(ValueError, match="paired"):
        paired_interval(x, x[:3], rng)
    with pytest.raises(ValueError, match="samples"):
        bootstrap_interval(np.array([1.0]), rng)
