"""`pmeta report`: what it writes follows from the data, and --verify sees every change."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import report_pages as pages
from pmeta_course.reproduction import plots

from pmeta_lib import cli
from pmeta_lib.files import UserError

ROOT = Path(__file__).parents[2]
MAKE = ["--update-readme", "--checksums"]
NUMBER = "pMeta has <!-- = scores family=pendulum-flip learner=pmeta: mean .1f --><!-- / --> by C3 in notebook 12."


@pytest.fixture
def stored(tmp_path, table, placebos):
    """A small repository with a finished report: data/, README.md, docs/."""
    data = tmp_path / "data"
    (data / "results").mkdir(parents=True)
    (data / "tuning").mkdir()
    (data / "tuning" / "chosen.json").write_text("{}")
    values = {"pmeta": [7.0, 8.0, 9.0, 8.5, 8.2], "independent": [8.0, 9.0, 9.5, 8.8, 8.7], "joint": [1.0, 2, 3, 2, 1]}
    names = ("pendulum-flip", "half-cheetah-dir")
    table({(f, n): v for f in names for n, v in values.items()}).to_parquet(data / "results" / "gym.parquet")
    placebos(*names).to_parquet(data / "results" / "placebos.parquet")
    (tmp_path / "docs").mkdir()
    for page in pages.PAGES:  # their tables, and prose with one number; the real prose speaks of real runs
        tables = "\n".join(f"<!-- {name} -->\n<!-- end {name} -->" for name in pages.PAGES[page])
        (tmp_path / page).write_text(f"# A page\n\n## What came out\n\n{NUMBER}\n\n{tables}\n")
    shutil.copy(ROOT / "data" / "claims_v1.json", data)
    assert report(data, "--json", str(data / "claims.json"), *MAKE) == 0
    return data


def report(data, *options):
    return cli.main(["report", "--data", str(data), *options])


def test_a_fresh_report_verifies(stored, capsys):
    assert report(stored, "--verify") == 0
    out = capsys.readouterr().out
    assert "verified" in out and "C3  OPEN" in out and "lacks not run" in out


def spoil_number(data):
    path = data / "claims.json"
    ledger = json.loads(path.read_text())
    row = next(r for r in ledger["scores"] if r["learner"] == "pmeta")
    row["high"] = round(row["high"] + 1e-4, 5)
    path.write_text(json.dumps(ledger))
    return r"claims\.json\.scores\[\d+\]\.high: stored \d+\.\d+, recomputed \d+\.\d+"


def spoil_verdict(data):
    path = data / "claims.json"
    path.write_text(path.read_text().replace('"verdict": "open"', '"verdict": "reproduced"', 1))
    return r"claims\.json\.claims\[0\]\.verdict: stored 'reproduced', recomputed 'open'"


def spoil_readme(data):
    path = data.parent / "README.md"
    path.write_text(path.read_text().replace("**open**", "**reproduced**", 1))
    return r"README\.md: a table or a number is not that of the data"


def spoil_docs(data):
    path = data.parent / "docs" / "results.md"
    path.write_text(
        path.read_text().replace(
            "| pendulum-flip | desk | train | pmeta | 5 |", "| pendulum-flip | desk | train | pmeta | 6 |"
        )
    )
    return r"docs/results\.md: a table or a number is not that of the data"


def spoil_prose(data):
    path = data.parent / "docs" / "findings.md"
    path.write_text(path.read_text().replace(" -->8.1 [", " -->8.4 ["))
    return r"docs/findings\.md: a table or a number is not that of the data"


def spoil_stray(data):
    path = data.parent / "README.md"
    path.write_text(path.read_text().replace("by C3", "by C3 in 7 of 9 runs"))
    return r"(?s)README\.md: 7 is a number that nothing computes.*README\.md: 9 is a number that nothing"


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
    "spoil",
    [
        spoil_number,
        spoil_verdict,
        spoil_readme,
        spoil_docs,
        spoil_prose,
        spoil_stray,
        spoil_raw,
        spoil_unread,
        spoil_missing,
    ],
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


def test_a_curve_shows_every_seed_the_placebos_and_the_reference(table, placebos, tmp_path):
    table({("pendulum-flip", n): v for n, v in (("pmeta", [1.0, 3.0]), ("independent", [4.0, 6.0]))}).to_parquet(
        tmp_path / "gym.parquet"
    )
    placebos("pendulum-flip").to_parquet(tmp_path / "placebos.parquet")
    (axis,) = plots.learning_curves(plots.load(tmp_path)).axes
    lines = {line.get_label(): np.asarray(line.get_ydata(), float) for line in axis.lines}
    assert lines["pmeta"].tolist() == pytest.approx([0, 0, 0, 0, 2]) and "2 seeds" in axis.get_title()
    assert [lines[n][0] for n in ("zero action", "untrained", "uniform random")] == pytest.approx([-1, -2, -3])
    assert lines["independent, at the end"][0] == pytest.approx(5)
    low, high = axis.collections[0].get_paths()[0].get_extents().intervaly
    assert low < 1 and high > 3 and axis.get_xlabel() and axis.get_ylabel()


def test_on_policy_learners_have_dashed_lines_and_no_two_ticks_of_their_steps_touch(table, placebos, tmp_path):
    families = ("point-robot", "pendulum-flip")  # two panels, side by side
    runs = table({(f, n): [1.0, 3.0] for f in families for n in ("independent", "pearl", "rl2")})
    runs["step"] *= np.where(runs["learner"] == "rl2", 2500, 50)
    runs.assign(scale="field").to_parquet(tmp_path / "gym_field.parquet")
    pd.concat(map(placebos, families)).to_parquet(tmp_path / "placebos.parquet")
    figure = plots.learning_curves(plots.load(tmp_path))
    axis = figure.axes[0]
    look = {line.get_label(): (line.get_linestyle(), line.get_color()) for line in axis.lines}
    assert [look[n][0] for n in ("independent", "pearl", "rl2")] == ["-", "-", "--"]
    assert look["pearl"][1] == look["rl2"][1] != look["independent"][1]  # a relative's colour
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in axis.get_xticklabels() if t.get_text()]
    assert len(boxes) > 2 and all(a.x1 < b.x0 for a, b in pairwise(boxes))
    plots.plt.close(figure)


def test_the_map_shows_who_is_best_where_and_by_how_much(table, placebos, tmp_path):
    table({("half-cheetah-dir", n): [1.0, 3.0] for n in ("pmeta", "independent")}).to_parquet(tmp_path / "gym.parquet")
    means = {(0.0, 10): (1, 9, 5), (0.0, 300): (8, 1, 7.5), (1.0, 10): (1, 2, 6), (1.0, 300): (4, 4.2, 4.3)}
    rows = [(h, data, n, mean + 0.2 * k) for (h, data), cell in means.items()
            for n, mean in zip(("independent", "joint", "pmeta"), cell) for k in range(-2, 3)]  # fmt: skip
    cells = pd.DataFrame(rows, columns=["h", "data", "learner", "value"])
    cells["zero"] = np.where(cells["h"] == 0, 0.0, 5.0)
    left, right = plots.one_page({"a map": cells}, plots.load(tmp_path)[:1]).axes
    said = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in left.texts}
    assert said == {(0, 0): "-4.00", (0, 1): "-0.50", (1, 0): "+4.00*", (1, 1): "+0.10"}
    shown, hatched = ([p for p in left.patches if bool(p.get_hatch()) == way] for way in (False, True))
    assert [(p.get_y() + 0.5, p.get_x() + 0.5) for p in hatched] == [(1, 1)]  # 4.3, where a placebo has 5
    full = {(p.get_y() + 0.5, p.get_x() + 0.5): (p.get_facecolor()[:3], p.get_alpha() > 0.5) for p in shown}
    best = {(0, 0): "joint", (0, 1): "independent", (1, 0): "pmeta", (1, 1): "pmeta"}
    for at, name in best.items():
        assert full[at] == (pytest.approx(plots.COLOURS[name]), at in ((0, 0), (1, 0)))
    assert [t.get_text() for t in left.get_xticklabels()] == ["10", "300"] and "half-cheetah-dir" in right.get_title()


def test_bars_show_the_control_and_the_placebos(table, placebos, tmp_path):
    values = {"pmeta": 3.0, "independent": 2.0, "joint": 1.0}
    table({("pendulum-flip", n): [v + 0.1 * k for k in range(5)] for n, v in values.items()}).to_parquet(
        tmp_path / "gym.parquet"
    )
    placebos("pendulum-flip").to_parquet(tmp_path / "placebos.parquet")
    figure, (left, right) = plots.plt.subplots(1, 2)
    plots.improvement(left, plots.load(tmp_path))
    assert [t.get_text() for t in left.get_yticklabels()] == ["independent", "joint"]
    controls = [c.lines[0].get_xdata()[0] for c in left.containers]
    assert controls == [0.5, 1.0]  # independent against itself, and against joint
    plots.aggregate_scores(right, plots.load(tmp_path))
    assert [t.get_text() for t in right.get_yticklabels()][-3:] == ["uniform random", "zero action", "untrained"]
    plots.plt.close(figure)


@pytest.mark.parametrize("what", ["scores learner=pmeta: mean .1f", "scores learner=x: mean .1f"])
def test_a_number_in_prose_must_be_one(what, tmp_path):
    ledger = {"scores": [{"learner": "pmeta", "mean": 1.0}] * 2}
    with pytest.raises(UserError, match=r"names \d numbers, not one"):
        pages.fact(ledger, what, tmp_path)


def test_numbers_in_prose(tmp_path):
    part = {"name": "a part, with: words", "statistic": [0.5, 0.25, 0.75]}
    row = {"learner": "zero action", "mean": 1.0, "low": 0.5, "high": 2.0, "score": None}
    ledger = {"scores": [row], "claims": [{"parts": [part]}]}
    fact = lambda what: pages.fact(ledger, what, tmp_path)  # noqa: E731
    assert fact("scores learner=zero_action: mean .1f") == "1.0 [0.5, 2.0]"
    assert fact("scores learner=zero_action: score .1f") == "(open)"
    assert fact("parts name=a part, with: words: statistic .2f") == "0.50 [0.25, 0.75]"


def test_strays_are_numbers_outside_tables_names_and_code():
    text = "## A\n\nC4 in [notebook 08](x8.md), `lam = 1`, 2022, arXiv [2108.13264](y), 64 x 64: 3 and 0.5.\n## B\n4"
    assert pages.strays(text, "## A") == ["3", "0.5."]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--data", "nowhere"], "nowhere/results is no folder"), (["--verify", "--checksums"], "--verify writes nothing")],
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
