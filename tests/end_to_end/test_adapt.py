"""`pmeta adapt` as a user calls it."""

import json
import shutil

import pandas as pd
import pytest

from pmeta_lib.cli import main
from pmeta_lib.experiments import adapt
from pmeta_lib.experiments.run import run_packed
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.sac.adaptation import Plan

SETTINGS = {"steps": 50, "hidden": [8, 8], "batch_size": 8, "warm_up": 20, "evaluations": 1, "evaluation_episodes": 1}
ASK = ["--steps", "0,30,50", "--episodes", "2", "--quiet"]


def finish(root, learner, seeds=(0,), family="point-robot", tasks=2, **options):
    specs = [RunSpec(family, learner, s, "modern", tasks, options, SETTINGS) for s in seeds]
    return run_packed(specs, [root / f"{learner}-{s.seed}" for s in specs])


def adapt_run(folder, plan, **how):
    return adapt.adapt_packed([folder], plan, **how)[0]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Finished runs of four learners, two seeds each, and a folder that is not finished."""
    root = tmp_path_factory.mktemp("sweep")
    for name in ("pmeta", "pearl", "joint-onehot", "independent"):
        finish(root, name, (0, 1))
    shutil.copytree(root / "pmeta-0", root / "half-done")
    (root / "half-done" / "result.json").unlink()
    return root


def test_a_sweep_is_adapted_into_a_table_a_run(sweep, tmp_path, capsys):
    words = ["adapt", str(sweep), *ASK, "--out", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "10 test tasks (held out)" in out and "independent brings nothing along" in out
    for word in ("proximal", "context", "sac", "scratch", "random"):
        assert f" {word} " in out, word
    tables = {p: pd.read_parquet(p) for p in tmp_path.glob("*/adaptation.parquet")}
    assert len(tables) == 8 and not list(tmp_path.glob("*/adaptation-*"))  # no checkpoints are left
    table = pd.concat(tables.values())
    deployed, acting = (table[table["policy"] == name] for name in ("deployed", "acting"))
    assert set(deployed["step"]) == {0, 30, 50} and deployed["episode"].isna().all()
    assert set(acting["episode"]) == {1, 2} and acting["step"].eq(20 * acting["episode"]).all()
    assert table.groupby("run")["seed"].nunique().eq(1).all() and (table["packed"] == 2).all()
    for name in ("family", "preset", "learner", "options", "settings", "pmeta_lib", "torch", "mujoco", "machine",
                 "commit", "checkpoint_sha256", "held_out", "seconds"):  # fmt: skip
        assert table[name].notna().all(), name
    scratch = table[table["way"] == "scratch"]  # is the same whatever was trained before
    assert scratch.groupby(["policy", "seed", "step", "task"])["return"].nunique().eq(1).all()
    report = json.loads((tmp_path / "r.json").read_text())
    row = next(r for r in report["rows"] if r["way"] == "proximal")
    want = deployed[(deployed["way"] == "proximal") & (deployed["step"] == 50)]["return"].mean()
    assert row["returns"]["50"] == pytest.approx(want) and len(report["tables"]) == 8
    want = acting[acting["way"] == "proximal"].groupby("episode")["return"].mean()
    assert row["episodes"] == pytest.approx({"1": want[1], "2": want[2], "1 to 2": want.mean()})
    assert "1 to 2" in out and f"{want.mean():.1f}" in out


def test_what_is_there_is_not_computed_again_unless_something_else_is_asked(sweep, tmp_path, monkeypatch):
    plan, folder = Plan((0, 30), 0), sweep / "pmeta-0"
    path = adapt_run(folder, plan, out=tmp_path)
    before = path.read_bytes()
    with monkeypatch.context() as m:
        m.setattr(adapt, "adapt", None)  # would fail if it were called
        assert adapt_run(folder, plan, out=tmp_path) == path and path.read_bytes() == before
    adapt_run(folder, Plan((0, 40), 0), out=tmp_path)
    assert set(pd.read_parquet(path)["step"]) == {0, 40}
    (kept,) = path.parent.glob("adaptation-*.parquet")
    assert kept.read_bytes() == before


def test_references_are_computed_once_for_all_learners_of_a_folder(sweep, tmp_path, monkeypatch):
    plan, both = Plan((0, 40), 0), [sweep / "pmeta-0", sweep / "pearl-0"]
    alone = [pd.read_parquet(adapt_run(folder, plan, out=tmp_path / "alone")) for folder in both]
    calls, compute = [], adapt.references
    monkeypatch.setattr(adapt, "references", lambda *a, **k: calls.append(1) or compute(*a, **k))
    made = [pd.read_parquet(adapt_run(f, plan, out=tmp_path / "s", shared=tmp_path / "s")) for f in both]
    assert len(calls) == 1
    for one, other in zip(alone, made):
        assert other.drop(columns="seconds").equals(one.drop(columns="seconds"))
    adapt_run(both[0], Plan((0, 30), 0), out=tmp_path / "s", shared=tmp_path / "s")
    assert len(calls) == 2  # other references for another plan


def test_a_folder_that_cannot_be_written_is_named_before_any_work(sweep, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(adapt, "adapt", None)  # would fail if it were called
    for name in ("pmeta-0", "independent-0"):
        assert main(["adapt", str(sweep / name), *ASK, "--out", str(tmp_path / "file" / "out")]) == 2
        found = capsys.readouterr().err
        assert "this folder cannot be written" in found and "give another --out" in found and found.count("\n") == 1


def test_a_run_adapts_in_company_as_it_does_alone(sweep, tmp_path):
    plan, both = Plan((0, 40), 1), [sweep / "pearl-0", sweep / "pearl-1"]
    together = adapt.adapt_packed(both, plan, out=tmp_path / "both")
    alone = [adapt_run(folder, plan, out=tmp_path / "one") for folder in both]
    for a, b in zip(together, alone):
        a, b = pd.read_parquet(a), pd.read_parquet(b)
        assert a["run"].equals(b["run"]) and a["way"].equals(b["way"]) and a["step"].equals(b["step"])
        assert (a["return"] - b["return"]).abs().max() < 0.05
    with pytest.raises(adapt.UserError, match="nothing but their seed"):
        adapt.adapt_packed([sweep / "pearl-0", sweep / "pmeta-1"], plan)


def test_a_killed_adaptation_resumes_to_the_same_table(sweep, tmp_path):
    class Killed(BaseException):
        pass

    plan, folder = Plan((0, 50), 0), sweep / "pmeta-0"
    whole = pd.read_parquet(adapt_run(folder, plan, out=tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(adapt, "references", lambda *a, **k: (_ for _ in ()).throw(Killed))  # after its own way is done
        with pytest.raises(Killed):
            adapt_run(folder, plan, out=tmp_path / "killed")
    (kept,) = (tmp_path / "killed").glob("*/adaptation-*/proximal")
    assert list(kept.glob("step-*.json")) and not list((tmp_path / "killed").glob("*/*.parquet"))
    again = pd.read_parquet(adapt_run(folder, plan, out=tmp_path / "killed"))
    assert again.drop(columns="seconds").equals(whole.drop(columns="seconds"))


def test_tasks_that_are_not_held_out_are_called_so(tmp_path, capsys):
    (folder,) = finish(tmp_path, "joint", family="pendulum-flip", tasks=None)
    assert main(["adapt", str(folder), "--steps", "0,20", "--episodes", "0", "--quiet"]) == 0
    assert "NOT held out: they are the training tasks" in capsys.readouterr().out
    assert not pd.read_parquet(folder / "adaptation.parquet")["held_out"].any()
    words = ["adapt", str(folder), "--steps", "0,20", "--episodes", "0", "--quiet", "--family", "pendulum-params"]
    assert main([*words, "--out", str(tmp_path / "other")]) == 0
    (path,) = (tmp_path / "other").glob("*/adaptation.parquet")
    table = pd.read_parquet(path)
    assert set(table["family"]) == {"pendulum-params"} and set(table["trained_on"]) == {"pendulum-flip"}
    assert table["held_out"].all() and table["task"].nunique() == 5


@pytest.mark.parametrize("words, text", [
    (["nowhere"], "no finished run"), (["half-done"], "no finished run"), (["pmeta-0", "pmeta-0"], "more than once"),
    (["pmeta-0", "--family", "half-cheetah-dir"], "take 2 observations and give 2 actions; half-cheetah-dir has 17"),
    (["joint-onehot-0", "--family", "pendulum-flip"], "take 2 observations and give 2 actions; pendulum-flip has 3"),
    (["pmeta-0", "--family", "point-robt"], "Did you mean 'point-robot'"), (["pmeta-0", "--steps", "0,x"], "--steps"),
    (["pmeta-0", "--steps", "0", "--episodes", "0"], "nothing would be adapted"),
    (["pmeta-0", "--episodes", "-1"], "episodes is -1"), (["pmeta-0", "--critics", "old"], "'fresh' or 'learned'"),
    (["pmeta-0", "--set", "hidden=4"], "--set hidden"), (["pmeta-0", "--set", "learning_rat=4"], "Did you mean"),
    (["pmeta-0", "--device", "cuda:99"], "not available"), (["damaged"], "is not the file that the run wrote"),
    (["lost"], "cannot be read (No such file"), (["folder"], "cannot be read (Is a directory"),
    (["mamel"], "1 runs are of an older version"), (["lamda"], "1 runs are of an older version"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(words, text, sweep, tmp_path, capsys, monkeypatch):
    for name in ("damaged", "lost", "folder", "mamel", "lamda"):
        shutil.copytree(sweep / "pmeta-0", tmp_path / name)
    for name in ("pmeta-0", "half-done", "joint-onehot-0"):
        (tmp_path / name).symlink_to(sweep / name)
    data = bytearray((tmp_path / "damaged" / "checkpoint.safetensors").read_bytes())
    data[-3] ^= 1
    (tmp_path / "damaged" / "checkpoint.safetensors").write_bytes(data)
    for name in ("lost", "folder"):
        (tmp_path / name / "checkpoint.safetensors").unlink()
    (tmp_path / "folder" / "checkpoint.safetensors").mkdir()
    for name, change in (("mamel", {"learner": "mamel"}), ("lamda", {"options": {"lamda": 1.0}})):
        path = tmp_path / name / "spec.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.chdir(tmp_path)
    assert main(["adapt", *words, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert text in error and error.startswith("pmeta: error: ") and "Traceback" not in error
    assert error.count("\n") == 1 or "more than once" in error
