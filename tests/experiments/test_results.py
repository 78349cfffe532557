"""The results store: one tidy table of many runs, or a refusal that lists why."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pmeta_course.reproduction import scores
from sweep_tools import same

from pmeta_lib import cli
from pmeta_lib.experiments import results
from pmeta_lib.experiments.run import run, run_packed
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.files import UserError, read_table, write_table

TINY = {"steps": 20, "warm_up": 10, "hidden": [4], "batch_size": 4, "evaluations": 2, "evaluation_episodes": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two learners, two seeds: one pair stacked, one alone."""
    out = tmp_path_factory.mktemp("store")
    specs = [RunSpec("point-robot", "pmeta", s, train_tasks=2, options={"lam": 0.5}, settings=TINY) for s in (0, 1)]
    run_packed(specs, [out / s.key for s in specs])
    for seed in (0, 1):
        spec = RunSpec("point-robot", "joint", seed, train_tasks=2, settings=TINY)
        run_packed([spec], [out / spec.key])
    (out / "unfinished").mkdir()
    (out / "unfinished" / "spec.json").write_text("{}")
    return out


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store, tmp_path / "copy")


def edit(folder, **values):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_row_says_where_it_comes_from(store):
    table = results.read(store)
    assert table["run"].nunique() == 4 and table["cell"].nunique() == 2  # the unfinished folder does not count
    # runs x evaluations x policies x tasks
    assert len(table) == 2 * 3 * 2 * 2 + 2 * 3 * 1 * 2
    assert set(table["packed"][table["learner"] == "pmeta"]) == {2} and set(table["packed"]) == {1, 2}
    for column in ("preset", "seed", "torch", "mujoco", "gymnasium", "pmeta_lib", "machine", "commit", "seconds"):
        assert table[column].notna().all(), column
    row = table[table["learner"] == "pmeta"].iloc[0]
    every = RunSpec("point-robot", options={"lam": 0.5}, settings=TINY).to_json()
    assert all(json.loads(row[name]) == every[name] for name in ("options", "settings")) and row["train_tasks"] == 2
    curve = pd.read_parquet(store / row["run"] / "curve.parquet")
    mine = table[table["run"] == row["run"]].sort_values(["step", "policy", "task"])["return"]
    assert mine.tolist() == curve.sort_values(["step", "policy", "task"])["return"].tolist()


def test_the_spec_of_a_row_is_the_runs_own(store):
    stored = scores.tables(Path(__file__).parents[2] / "data" / "results")
    for table in (results.read(store), *(t for name, t in stored.items() if not name.startswith("adaptation"))):
        for row in table.drop_duplicates("run").to_dict("records"):
            assert results.spec_of(row).key == row["run"], row["run"]


def test_the_order_of_rows_is_that_of_the_specs_alone(store, copy, tmp_path):
    halves = [tmp_path / "a", tmp_path / "b"]
    for i, path in enumerate(sorted(p.parent for p in copy.glob("*/result.json"))):
        halves[i % 2].mkdir(exist_ok=True)
        path.rename(halves[i % 2] / f"{9 - i}")  # other folders, in another order
    assert same(results.read(reversed(halves)), results.read(store))
    changed = results.read(store)
    changed.loc[3, "return"] += 1e-9
    assert not same(changed, results.read(store))


def test_parquet_agrees_with_the_table(store, tmp_path, capsys):
    target = tmp_path / "deep" / "it's.parquet"
    assert cli.main(["sweep", "results", str(store), "--out", str(target)]) == 0
    assert "4 runs" in capsys.readouterr().out
    assert same(pd.read_parquet(target), results.read(store))


def test_an_old_run_and_one_of_other_options_under_the_same_name_are_refused_by_file(copy, tmp_path):
    first, second = sorted(p.parent for p in copy.glob("*/result.json"))[:2]
    spec = json.loads((first / "spec.json").read_text())
    (first / "spec.json").write_text(json.dumps(spec | {"settings": spec["settings"] | {"polyak": 0.5}}))
    with pytest.raises(
        UserError, match=rf"^{first}: result.json is of run {first.name}.*other options; delete"
    ) as caught:
        results.read(copy)
    assert "\n" not in str(caught.value)
    for folder in (first, second):
        path = folder / "spec.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "version"}))
    with pytest.raises(UserError, match=r"2 runs are of an older version.*run the sweep again") as caught:
        results.read(copy)
    assert str(first) in str(caught.value) and str(second) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="older version"):
        run(RunSpec("point-robot", "pmeta", 0, train_tasks=2, options={"lam": 0.5}, settings=TINY), first)


def test_a_run_found_twice_is_refused_with_both_places(store, copy):
    with pytest.raises(UserError, match="4 runs are there more than once") as caught:
        results.read([store, copy])
    assert str(store) in str(caught.value) and str(copy) in str(caught.value)


def test_mixed_versions_are_refused_with_a_list_unless_allowed(copy):
    folder = next(copy.glob("*/result.json")).parent
    versions = json.loads((folder / "result.json").read_text())["versions"]
    edit(folder, versions=versions | {"mujoco": "2.1.0"}, device="cuda")
    with pytest.raises(UserError, match="differ in mujoco, device") as caught:
        results.read(copy)
    assert "mujoco 2.1.0: 1 runs" in str(caught.value) and str(folder) in str(caught.value)
    assert len(results.read(copy, allow_mixed=True)) == 36
    edit(folder, versions=versions, device="cpu", machine="another", commit="another")
    assert results.read(copy)["machine"].nunique() == 2  # may differ, and the rows say so


@pytest.mark.parametrize("damage", ["truncated curve", "foreign curve", "no curve", "bad json", "missing entry"])
def test_damage_is_named(copy, damage):
    first, second = sorted(p.parent for p in copy.glob("*/result.json"))[:2]
    if damage == "truncated curve":
        (first / "curve.parquet").write_bytes((first / "curve.parquet").read_bytes()[:100])
    elif damage == "foreign curve":
        shutil.copy(second / "curve.parquet", first / "curve.parquet")
    elif damage == "no curve":
        (first / "curve.parquet").unlink()
    elif damage == "bad json":
        (first / "result.json").write_text('{"run": ')
    else:
        (first / "result.json").write_text("{}")
    with pytest.raises(UserError, match=f"{first}.*delete"):
        results.read(copy)


def test_a_folder_without_results_and_a_missing_out(tmp_path, store, capsys):
    assert cli.main(["sweep", "results", str(tmp_path), "--out", str(tmp_path / "x.parquet")]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert cli.main(["sweep", "results", str(store)]) == 2
    assert "--out is missing" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_what_is_no_regular_file_is_never_replaced(store, tmp_path, capsys, kind):
    target = tmp_path / "there"
    target.mkdir() if kind == "a folder" else os.mkfifo(target)
    before = os.lstat(target)
    assert cli.main(["sweep", "results", str(store), "--out", str(target)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no regular file" in error and "--out" in error
    assert os.lstat(target).st_ino == before.st_ino and os.listdir(tmp_path) == ["there"]


def test_tables_of_pandas_2_and_of_pandas_3_are_read_as_one(tmp_path):
    """`stored/pandasN.parquet`: one frame, written by `to_parquet` of pandas 2.2.2 and 3.1.1."""
    stored = [Path(__file__).parent / "stored" / f"pandas{k}.parquet" for k in (2, 3)]
    assert [str(pq.read_schema(p).field("run").type) for p in stored] == ["string", "large_string"]
    frames = [read_table(path) for path in stored]
    pd.testing.assert_frame_equal(*frames)
    both = pd.concat(frames, ignore_index=True)
    assert both["run"].tolist() == ["a", "b", "ü"] * 2 and both["base"].isna().tolist() == [False, True, False] * 2
    assert both["learner"].tolist() == ["pmeta", "joint", "pmeta"] * 2
    for k, frame in enumerate([*frames, frames[0].astype({"run": object, "base": object})]):
        write_table(tmp_path / f"{k}.parquet", frame)
    written = [pq.read_schema(tmp_path / f"{k}.parquet") for k in range(3)]
    kinds = ["string", "string", "int64", "double", "bool", "string"]
    assert written[0] == written[1] == written[2] and [str(t) for t in written[0].types] == kinds
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()


def test_runs_written_with_bare_pandas_2_and_3_make_one_table(copy):
    for k, folder in enumerate(sorted(p.parent for p in copy.glob("*/result.json"))):
        table = pq.read_table(folder / "curve.parquet")
        kind = pa.large_string() if k % 2 else pa.string()
        schema = pa.schema([f.with_type(kind) if f.type == pa.string() else f for f in table.schema])
        pq.write_table(table.cast(schema), folder / "curve.parquet")
    assert results.read(copy)["run"].nunique() == 4
