"""`pmeta report`: what it writes follows from the data, and --verify sees every change."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pmeta_course.reproduction import claims, command, plots

from pmeta_lib import cli

ROOT = Path(__file__).parents[2]
MAKE = ["--update-readme", "--checksums"]


@pytest.fixture
def stored(tmp_path, monkeypatch, table, random_policy):
    """A small repository with a finished report: data/, README.md, docs/results.md."""
    monkeypatch.setattr(claims, "RESAMPLES", 100)
    data = tmp_path / "data"
    (data / "results").mkdir(parents=True)
    (data / "tuning").mkdir()
    (data / "tuning" / "chosen.json").write_text("{}")
    values = {"pmeta": [7.0, 8.0, 9.0, 8.5, 8.2], "independent": [8.0, 9.0, 9.5, 8.8, 8.7], "joint": [1.0, 2, 3, 2, 1]}
    names = ("pendulum-flip", "half-cheetah-dir")
    table({(f, n): v for f in names for n, v in values.items()}).to_parquet(data / "results" / "gym.parquet")
    random_policy(*names).to_parquet(data / "results" / "random_policy.parquet")
    (tmp_path / "docs").mkdir()
    for page in command.PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    assert report(data, "--json", str(data / "claims.json"), *MAKE) == 0
    return data


def report(data, *options):
    return cli.main(["report", "--data", str(data), *options])


def test_a_fresh_report_verifies(stored, capsys):
    assert report(stored, "--verify") == 0
    out = capsys.readouterr().out
    assert "verified" in out and "C3  NOT TESTABLE" in out and "lacks point-robot: not run" in out


def spoil_number(data):
    path = data / "claims.json"
    ledger = json.loads(path.read_text())
    row = next(r for r in ledger["scores"] if r["learner"] == "pmeta")
    row["high"] = round(row["high"] + 1e-4, 5)
    path.write_text(json.dumps(ledger))
    return r"claims\.json\.scores\[\d+\]\.high: stored 8\.\d+, recomputed 8\.\d+"


def spoil_verdict(data):
    path = data / "claims.json"
    path.write_text(path.read_text().replace('"not testable"', '"reproduced"', 1))
    return r"claims\.json\.claims\[0\]\.verdict: stored 'reproduced', recomputed 'not testable'"


def spoil_readme(data):
    path = data.parent / "README.md"
    path.write_text(path.read_text().replace("**not testable**", "**reproduced**", 1))
    return r"README\.md: a table is not that of the data"


def spoil_docs(data):
    path = data.parent / "docs" / "results.md"
    path.write_text(
        path.read_text().replace("| pendulum-flip | train | pmeta | 5 |", "| pendulum-flip | train | pmeta | 6 |")
    )
    return r"docs/results\.md: a table is not that of the data"


def spoil_raw(data):
    path = data / "results" / "gym.parquet"
    table = pd.read_parquet(path)
    table.loc[table.index[-1], "return"] += 0.5
    table.to_parquet(path)
    return r"(?s)claims\.json\.scores.*results/gym\.parquet: not the file of SHA256SUMS"


def spoil_unread(data):
    (data / "tuning" / "chosen.json").write_text('{"lam": 1}')  # no number of the report depends on it
    return r"^DIFFERS  tuning/chosen\.json: not the file of SHA256SUMS$"


def spoil_missing(data):
    (data / "tuning" / "chosen.json").unlink()
    return r"tuning/chosen\.json: not the file of SHA256SUMS"


@pytest.mark.parametrize(
    "spoil", [spoil_number, spoil_verdict, spoil_readme, spoil_docs, spoil_raw, spoil_unread, spoil_missing]
)
def test_verify_sees(stored, spoil, capsys):
    message = spoil(stored)
    capsys.readouterr()
    before = {p: p.read_bytes() for p in stored.parent.rglob("*") if p.is_file()}
    assert report(stored, "--verify") == 1
    assert re.search(message, capsys.readouterr().out, re.MULTILINE)
    assert before == {p: p.read_bytes() for p in stored.parent.rglob("*") if p.is_file()}  # it writes nothing


def test_the_report_is_made_twice_the_same(stored):
    first = {p: p.read_bytes() for p in stored.parent.rglob("*") if p.is_file()}
    assert report(stored, "--json", str(stored / "claims.json"), *MAKE) == 0
    assert first == {p: p.read_bytes() for p in stored.parent.rglob("*") if p.is_file()}


def test_figures_are_drawn_twice_the_same(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "RESAMPLES", 20)
    path = stored / "results" / "gym.parquet"
    pd.read_parquet(path).query("family == 'half-cheetah-dir'").to_parquet(path)  # one panel each, for speed
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        assert {p.stem for p in plots.draw_all(stored / "results", folder)} == {
            "main_result", "learning_curves", "aggregate_scores", "improvement", "performance_profile",
            "sample_efficiency"}  # fmt: skip
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name


def test_a_curve_shows_every_seed_and_both_references(table, random_policy, tmp_path):
    table({("pendulum-flip", n): v for n, v in (("pmeta", [1.0, 3.0]), ("independent", [4.0, 6.0]))}).to_parquet(
        tmp_path / "gym.parquet"
    )
    random_policy("pendulum-flip").to_parquet(tmp_path / "random_policy.parquet")
    (axis,) = plots.learning_curves(plots.load(tmp_path)).axes
    lines = {line.get_label(): np.asarray(line.get_ydata(), float) for line in axis.lines}
    assert lines["pmeta"].tolist() == pytest.approx([0, 0, 0, 0, 2]) and "2 seeds" in axis.get_title()
    assert lines["random actions"][0] == -1 and lines["independent, at the end"][0] == pytest.approx(5)
    low, high = axis.collections[0].get_paths()[0].get_extents().intervaly
    assert 0 == low < high <= 3 and axis.get_xlabel() and axis.get_ylabel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere/results is no folder"),
        (["--verify", "--checksums"], "--verify writes nothing"),
    ],
)
def test_mistakes(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *options]) == 2
    assert message in capsys.readouterr().err


def test_pages_without_markers_and_a_missing_ledger(stored, capsys):
    (stored / "claims.json").unlink()
    assert report(stored, "--verify") == 2
    assert "make report" in capsys.readouterr().err
    (stored.parent / "README.md").write_text("# nothing here\n")
    assert report(stored, "--update-readme") == 2
    assert "must hold <!-- claims --> and <!-- end claims --> once each" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- what is really stored
def test_the_stored_report_follows_from_the_stored_results(capsys):
    """Every number of data/claims.json, README.md and docs/results.md, and every checksum."""
    code = cli.main(["report", "--data", str(ROOT / "data"), "--verify"])
    assert code == 0, capsys.readouterr().out


def test_every_stored_file_has_its_provenance():
    text = (ROOT / "data" / "README.md").read_text()
    sealed = [line.split("  ")[1] for line in (ROOT / "data" / "SHA256SUMS").read_text().splitlines()]
    named = set(re.findall(r"`([^`]+)`", text))
    for name in sealed:
        assert name in named or any(n.endswith("/") and name.startswith(n) for n in named), name
    assert sum((ROOT / "data" / name).stat().st_size for name in sealed) < 60 * 2**20
