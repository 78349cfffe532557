"""A result that changed is caught and explained, noise is not: real runs against blessed expectations."""

import json
import os
import shutil
from types import SimpleNamespace

import nbformat
import pytest

from pmeta_lib import cli

BASE = """import numpy as np
from pmeta_course import record
rng = np.random.default_rng(SEED)
x = np.linspace(0, 1, 5)
y = 2 * x ** 2 - x
noise = rng.normal(size=200).mean()
record("curve", y)
record("minimum", y.min(), rtol=1e-9)
record("sample", rng.normal(), rtol=1e-9)
record("noisy", noise, kind="stochastic")
record("verdict", "holds")
"""
RECORDS = BASE[BASE.index("record(") :]
SEVERAL = """record("curve", y[1:])
record("minimum", np.inf, rtol=1e-9)
record("sample", rng.normal(), rtol=1e-9)
record("noisy", 10 + noise, kind="stochastic")
record("verdict", "fails")
record("extra", 1)
"""
FIGURE = """import matplotlib.pyplot as plt, numpy as np
x = np.linspace(0, 1, 5)
fig, ax = plt.subplots(2, figsize=(3, 2))
ax[0].plot(x, -x)
ax[1].plot(x, x)
plt.show()"""

# name -> (old text, new text, what must be flagged: the names of the values, or the reason)
CAUGHT = {
    "formula": ("2 * x", "2.001 * x", {"curve", "minimum"}),
    "sign": ("- x", "+ x", {"curve", "minimum"}),
    "swapped_seed": ("default_rng(SEED)", "default_rng(SEED + 1)", {"sample"}),
    "deleted": ('record("sample", rng.normal(), rtol=1e-9)\n', "", {"sample"}),
    "loosened": ("rtol=1e-9)\nrecord(\"sample\"", "rtol=1.0)\nrecord(\"sample\"", {"minimum"}),
    "several": (RECORDS, SEVERAL, {"curve", "minimum", "noisy", "verdict", "extra"}),
    "half_empty": ("ax[1].plot(x, x)\n", "", "figure"),
    "blank": ("1].plot(x, x)", "0].clear()", "figure"),
    "no_figure": ("plt.show()", "plt.close()", "figure"),
}  # fmt: skip
NOT_FLAGGED = {
    "float_noise": ("2 * x ** 2 - x", "(2 * x ** 2 - x) * (1 + 3e-10)"),
    "slower": ("rng =", "import time; time.sleep(1)\nrng ="),
    "other_metadata": ("", ""),
    "same_band": ("noise = rng", "noise = 0.01 + rng"),
}


@pytest.fixture(scope="module")
def runs(tools, once):
    found, folder = once("compare", lambda folder: run_comparisons(tools, folder))
    found["expected"] = folder / "nb" / "expected" / "quick"
    found["call"] = ("--notebooks", folder / "nb", "--out", folder / f"out-{os.getpid()}")
    return found


def run_comparisons(tools, folder):
    nbs, expected = folder / "nb", folder / "nb" / "expected" / "quick"
    tools.write(nbs / "base.ipynb", BASE)
    tools.write(nbs / "drawn.ipynb", FIGURE)
    call = ("--notebooks", nbs, "--out", folder / "out", "--workers", 2)
    refused = tools.course(*call, "--only", "drawn", "--compare")  # records nothing, and yet needs an expectation
    first = tools.course(*call)
    bless = tools.course(*call, "--bless", "--reason", "first numbers", "--seeds", 0, 1, 2)
    for name, (old, new, *_) in (CAUGHT | NOT_FLAGGED).items():
        origin, source = ("base", BASE) if old in BASE else ("drawn", FIGURE)
        assert old in source
        tools.write(nbs / f"{name}.ipynb", source.replace(old, new))
        shutil.copy(expected / f"{origin}.json", expected / f"{name}.json")
    nb = nbformat.read(nbs / "other_metadata.ipynb", as_version=4)
    nb.metadata.update(author="somebody", kernelspec={"name": "other", "display_name": "x", "language": "python"})
    nb.cells[3].metadata["collapsed"] = True
    nbformat.write(nb, nbs / "other_metadata.ipynb")
    compared = tools.course(*call, "--compare")
    ci = tools.course(*call, "--only", "formula", CI="true")
    laptop = tools.course(*call, "--only", "formula", PYTHONIOENCODING="ascii")
    compared.refused, compared.bless, compared.ci, compared.laptop = refused, bless, ci, laptop
    compared.first = first
    return compared


@pytest.mark.parametrize("name", CAUGHT)
def test_caught(runs, name):
    found, flagged = runs.notebooks[name], CAUGHT[name][2]
    assert found["status"] == "failed"
    wrong = {r["name"] for r in found["rows"] if r["status"] not in ("same", "moved")}
    if isinstance(flagged, set):
        assert wrong == flagged and found["reason"] == "values"
        told = " ".join([found["message"], *found["problems"]])
        assert all(v in told for v in flagged) or "and 2 more" in told  # three are told, the table has all
    else:
        assert not wrong and found["reason"] == flagged


@pytest.mark.parametrize("name", ["base", *NOT_FLAGGED])
def test_not_flagged(runs, name):
    found = runs.notebooks[name]
    assert found["status"] == "passed", found
    assert len(found["rows"]) == 5 and not found["problems"]


def test_how_far_a_value_is_away_is_told_in_tolerances(runs):
    rows = {r["name"]: r for r in runs.notebooks["formula"]["rows"]}
    # at x = 1, the curve 2 x² - x = 1 has moved by 1e-3, its tolerance is 1e-6 + 1e-12
    assert (rows["curve"]["away"] > 900 and "[4]" in rows["curve"]["detail"]) or rows["curve"]["away"] > 1000
    assert rows["sample"]["away"] == 0


def test_a_seed_that_stays_in_the_band_is_still_shown_as_moved(runs):
    rows = {r["name"]: r["status"] for r in runs.notebooks["swapped_seed"]["rows"]}
    assert rows["noisy"] == "moved"


def test_the_runner_and_the_comparison_cost_less_than_a_tenth_of_the_kernels_time(runs):
    kernels, all_of_it = (sum(n[k] for n in runs.notebooks.values()) for k in ("kernel_seconds", "seconds"))
    assert 0 < all_of_it - kernels < 0.1 * kernels


def test_missing_expectations_fail_when_comparing(runs):
    assert runs.refused.code == 1 and runs.code == 1
    assert "no expectation" in runs.refused.out and "--bless" in runs.refused.out


def test_where_nothing_was_ever_blessed_one_line_says_so(runs):
    assert runs.first.code == 0 and len(runs.first.notebooks) == 2 and runs.first.out.count("no expectation") == 1
    assert " recorded\n" in runs.first.out and "agree" not in runs.first.out


def test_ci_compares_strictly_and_a_laptop_only_says_so(runs):
    assert runs.ci.code == 1 and runs.ci.notebooks["formula"]["reason"] == "values"
    assert runs.laptop.code == 0 and "2 of 5 values differ" in runs.laptop.out


def test_the_band_is_stored_with_its_derivation(runs):
    stored = json.loads((runs.expected / "base.json").read_text())
    band = stored["values"]["noisy"]["band"]
    assert band["seeds"] == [0, 1, 2] and len(band["values"][""]) == 3 and "prediction interval" in band["rule"]
    mean, sd = band["mean"][""], band["sd"][""]
    assert mean == pytest.approx(sum(band["values"][""]) / 3)
    assert band["half_width"][""] == pytest.approx(band["factor"] * sd, rel=1e-3)
    assert stored["history"][0]["reason"] == "first numbers"
    assert stored["parameters"] == {"PROFILE": "quick", "SEED": 0}


def test_bless_shows_old_new_tolerance_asks_why_and_changes_only_what_left_it(tools, runs, monkeypatch, capsys):
    def bless(answer):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr("builtins.input", answer)
        code = cli.main(["course", *map(str, runs.call), "--only", "formula", "--bless"])
        return code, capsys.readouterr().out

    def gone(question):
        raise EOFError

    before = (runs.expected / "formula.json").read_text()
    code, out = bless(gone)
    assert code == 1 and "nothing blessed" in out and (runs.expected / "formula.json").read_text() == before
    code, out = bless(lambda question: "a better formula")
    assert code == 0, out
    line = next(text for text in out.splitlines() if text.strip().startswith("minimum"))
    assert "-0.125" in line and "1.25e-10" in line.replace("1.26e-10", "1.25e-10")
    new, old = (json.loads((runs.expected / f"{n}.json").read_text()) for n in ("formula", "base"))
    assert new["values"]["curve"] != old["values"]["curve"]
    assert {n: new["values"][n] for n in ("sample", "noisy")} == {n: old["values"][n] for n in ("sample", "noisy")}
    assert [h["reason"] for h in new["history"]] == ["first numbers", "a better formula"]
    assert tools.course(*runs.call, "--only", "formula", "--compare").code == 0


def test_another_seed_is_no_comparison_unless_asked(tools, runs):
    free = tools.course(*runs.call, "--only", "base", "-p", "SEED=7")
    held = tools.course(*runs.call, "--only", "base", "-p", "SEED=7", "--compare")
    assert free.code == 0 and free.summary["compare"] == "off"
    assert held.code == 1 and "parameter SEED" in held.out
