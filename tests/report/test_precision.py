"""The stored learning curves in bfloat16 lie where those in float32 do."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

RESULTS = Path(__file__).parents[2] / "data" / "results"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("precision", RESULTS / "precision.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bfloat16_learns_what_float32_learns(script):
    rows = pd.read_parquet(RESULTS / "precision.parquet")
    found = script.judge(rows).set_index("family")
    assert set(found.index) == {"half-cheetah-dir", "pendulum-flip"} and (found["seeds"] >= 5).all()
    assert (found["inside"] >= 0.9).all() and (found["percent_of_gain"].abs() <= 5).all()
    assert all(low < 0 < high for _, low, high in found["difference"])
    # independently: plain pandas and SciPy, one family
    cheetah = rows[(rows["family"] == "half-cheetah-dir") & (rows["step"] > 0)]
    curves = {p: t.pivot(index="seed", columns="step", values="return") for p, t in cheetah.groupby("precision")}
    full, half = curves["float32"], curves["bfloat16"].mean()
    reach = stats.t.ppf(0.975, len(full) - 1) * full.std(ddof=1) / np.sqrt(len(full))
    assert ((half - full.mean()).abs() <= 2 * reach).all()  # nowhere far away, by Student's narrower interval


def test_one_precision_alone_leaves_the_stored_table(script, monkeypatch):
    rows = pd.read_parquet(RESULTS / "gym_field.parquet").query("learner == 'independent'")
    monkeypatch.setattr(script.results, "read", lambda folder: rows)
    with pytest.raises(SystemExit, match="no run in float32 among the folders"):
        script.read(["a"])


def test_the_judge_sees_a_precision_that_learns_less(script):
    rows = pd.read_parquet(RESULTS / "precision.parquet")
    worse = rows["return"].where(rows["precision"] != "bfloat16", rows["return"] - rows["return"].abs() * 0.5)
    found = script.judge(rows.assign(**{"return": worse}))
    assert (found["inside"] <= 0.5).all() and (found["percent"].abs() > 20).all()
