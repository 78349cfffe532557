"""Switches against the default: the differences are those that were planted."""

import json

import numpy as np
import pandas as pd
import pytest
from pmeta_course.reproduction import ablations
from pmeta_course.reproduction.claims import ledger
from report_pages import ablations_table
from scipy import stats


@pytest.fixture
def planted():
    """Five seeds of the default (return = seed) and of switches that add 10, nothing, and -1 on the second task."""
    rows, shift = [], {"{}": (0, 0), '{"lam": 0.1}': (10, 10), '{"beta": 0.3}': (0, 0), '{"inner_steps": 5}': (0, -1)}
    for text, by_task in shift.items():
        for seed in range(5):
            for step in (0, 100, 200, 300, 400):
                for task in (0, 1):
                    value = seed + by_task[task] if step > 300 else -99.0
                    rows.append((text, seed, step, task, value))
    table = pd.DataFrame(rows, columns=["options", "seed", "step", "task", "return"])
    table = table.assign(cell=table["options"], family="pendulum-flip", train_tasks=None, policy="deployed")
    return pd.concat([table, table.assign(policy="meta", **{"return": 1e6})], ignore_index=True)


def test_differences_are_those_planted(planted):
    base, found = ablations.variants(planted)
    assert (base["lam"], base["beta"], base["inner_steps"]) == (0.01, 1.0, 20)
    assert list(found) == [("pendulum-flip", 2)] and len(found["pendulum-flip", 2]) == 4
    rows = {r["switch"]: r for r in ablations.differences(planted)}
    assert rows.keys() == {"lam = 0.1", "beta = 0.3", "inner_steps = 5"}
    for switch, value in (("lam = 0.1", 10.0), ("beta = 0.3", 0.0), ("inner_steps = 5", -0.5)):
        r = rows[switch]
        assert r["difference"] == pytest.approx(value) and r["seeds"] == 5
        # returns are 0 to 4 on both sides: Welch's interval, with t at a quarter of the error
        half = stats.t.ppf(1 - 0.05 / 8, 8) * np.sqrt(2 * np.var(range(5), ddof=1) / 5)
        assert (r["low"], r["high"]) == pytest.approx((value - half, value + half))
    settings = found["pendulum-flip", 2]
    assert ablations.minus(settings[(("inner_steps", 5),)], settings[()], tasks=1)[0] == pytest.approx(0.0)


def test_the_ledger_and_the_page_have_them(planted, tmp_path):
    assert ledger(tmp_path)["ablations"] == [] and ablations_table({"ablations": []}) == "Not run.\n"
    planted.to_parquet(tmp_path / "ablations.parquet")
    rows = ledger(tmp_path)["ablations"]
    assert json.loads(json.dumps(rows)) == rows and len(rows) == 3
    shown = ablations_table({"ablations": rows})
    assert "| `lam = 0.1` | +10.0 [" in shown and "| 5 | better |" in shown and "| `beta = 0.3` | +0.0" in shown


def test_a_fall_is_the_change_of_what_is_deployed_over_the_first_thousand_steps():
    drop, rows = {("joint", "fresh"): -9.0, ("joint", "learned"): 0.5}, []
    for (name, critics), change in drop.items():
        for policy in ("deployed", "acting"):
            for seed in range(5):
                at = {0: seed, 1_000: seed + change + seed, 2_000: 0.0}
                rows += [(name, critics, policy, seed, step, x + 99 * (policy == "acting")) for step, x in at.items()]
    table = pd.DataFrame(rows, columns=["learner", "critics", "policy", "seed", "step", "return"])
    found = {(r["learner"], r["critics"]): (r["value"], r["low"], r["high"]) for r in ablations.falls(table)}
    half = stats.t.ppf(1 - 0.05 / 8, 4) * np.std(range(5), ddof=1) / np.sqrt(5)  # t at a quarter of the error, as above
    assert found.keys() == drop.keys()
    for key, change in drop.items():
        assert found[key] == pytest.approx((change + 2, change + 2 - half, change + 2 + half))


def test_pearl_s_returns_are_means_over_the_last_quarter_then_over_seeds():
    rows = [(f"run {seed}", "a", seed, step, policy, seed + step + 1_000 * (policy == "meta"))
            for seed in range(5) for step in (0, 25, 50, 75, 90, 100) for policy in ("deployed", "meta")]  # fmt: skip
    (found,) = ablations.inside(pd.DataFrame(rows, columns=["run", "family", "seed", "step", "policy", "return"]))
    half = stats.t.ppf(1 - 0.05 / 8, 4) * np.std(range(5), ddof=1) / np.sqrt(5)  # t at a quarter of the error
    assert found == {
        "family": "a",
        "value": pytest.approx(97),
        "low": pytest.approx(97 - half),
        "high": pytest.approx(97 + half),
    }


def test_directions_tells_the_two_tasks_apart_and_takes_the_last_quarter():
    rows = [
        (f"run {seed}", "half-cheetah-dir", "promp", policy, seed, step, task, 1000.0 * (step < 4) + 100 * task + seed)
        for seed in range(5) for step in range(5) for task in (0, 1) for policy in ("deployed", "meta")
    ] + [("other", "point-robot", "promp", "deployed", 0, 4, 0, 7.0)]  # fmt: skip
    columns = ["run", "family", "learner", "policy", "seed", "step", "task", "return"]
    found = ablations.directions(pd.DataFrame(rows, columns=columns))
    assert [(r["learner"], r["policy"], r["task"], round(r["value"], 6)) for r in found] == [
        ("promp", policy, task, 2.0 + 100 * task) for policy in ("deployed", "meta") for task in (0, 1)
    ]
    assert all(r["low"] < r["value"] < r["high"] for r in found)
