"""One spec, one folder: what is in it, what is refused, what a kill leaves."""

import json
import math
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pmeta_lib.experiments import results
from pmeta_lib.experiments import run as module
from pmeta_lib.experiments.run import finished, read_curve, run, run_packed
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.files import UserError, commit, json_text, provenance
from pmeta_lib.sac import checkpoint

SETTINGS = {"steps": 60, "hidden": [8, 8], "batch_size": 8, "warm_up": 20, "evaluations": 2, "evaluation_episodes": 1}
SPEC = RunSpec("point-robot", train_tasks=2, settings=SETTINGS)


def test_a_folder_holds_everything_and_a_second_call_computes_nothing(tmp_path, monkeypatch):
    folder = run(SPEC, tmp_path / "run")
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.safetensors", "curve.parquet", "losses.parquet", "result.json", "spec.json"]  # fmt: skip
    assert RunSpec.from_json(json.loads((folder / "spec.json").read_text())) == SPEC
    curve, result = read_curve(folder), json.loads((folder / "result.json").read_text())
    assert set(curve["run"]) == {SPEC.key} and set(curve["preset"]) == {"modern"} and set(curve["seed"]) == {0}
    assert sorted(set(curve["policy"])) == ["deployed", "meta"] and len(curve) == 3 * 2 * 2
    assert result["updates"] == 40 and result["step"] == 60 and result["seconds"] > 0
    assert {"env", "base", "gymnasium", "mujoco"} <= set(result["family_versions"])
    tensors = load_file(folder / "checkpoint.safetensors")
    assert (
        tensors["actor"].shape[0] == 2
        and tensors["extra.theta"].shape[0] == 1
        and tensors["critic"].shape[:2] == (2, 2)
    )
    monkeypatch.setattr(module, "trainer", None)  # would fail if called
    assert run(SPEC, folder) == folder


def test_packed_seeds_land_in_their_own_folders_and_follow_their_single_runs(tmp_path):
    specs = [replace(SPEC, seed=s) for s in (4, 7)]
    folders = run_packed(specs, [tmp_path / str(s.seed) for s in specs])
    for spec, folder in zip(specs, folders):
        alone = run(spec, tmp_path / f"alone{spec.seed}")
        one, other = read_curve(folder), read_curve(alone)
        assert set(one["seed"]) == {spec.seed} and set(one["run"]) == {spec.key}
        np.testing.assert_allclose(one["return"], other["return"], rtol=1e-3)
        a, b = (load_file(f / "checkpoint.safetensors")["actor"] for f in (folder, alone))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_pack_that_was_stopped_resumes_and_result_json_is_last(tmp_path, monkeypatch):
    specs, folders = [replace(SPEC, seed=s) for s in (0, 1)], [tmp_path / "a", tmp_path / "b"]
    whole = run_packed(specs, [tmp_path / "c", tmp_path / "d"])

    class Killed(BaseException):
        pass

    def kill(run):
        if run.step == 30:
            raise Killed

    with pytest.raises(Killed):
        run_packed(specs, folders, checkpoint_seconds=0.0, callback=kill)
    assert list((folders[0] / "checkpoints").glob("step-*")) and not any(map(finished, folders))
    order, write = [], module.write_json
    monkeypatch.setattr(module, "write_json", lambda path, data: (order.append(path.name), write(path, data)))
    run_packed(specs, folders)
    order.remove("origins.json")  # beside the checkpoints, before the training
    assert order.count("result.json") == 2 and order[-1] == order[len(order) // 2 - 1] == "result.json"
    for folder, want in zip(folders, whole):
        pd.testing.assert_frame_equal(read_curve(folder), read_curve(want))
        a, b = load_file(folder / "checkpoint.safetensors"), load_file(want / "checkpoint.safetensors")
        assert all(torch.equal(a[k], b[k]) for k in b)
    assert not (folders[0] / "checkpoints").exists()


def test_a_run_that_went_on_under_other_versions_says_all_of_them_and_is_not_mixed_unasked(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(run):
        if run.step == 30:
            raise Killed

    def elsewhere():
        made = provenance()
        return made | {"machine": "another", "versions": made["versions"] | {"torch": "9.9"}}

    for make, callback in ((provenance, kill), (elsewhere, None)):
        monkeypatch.setattr(module, "provenance", make)
        try:
            run(SPEC, tmp_path / SPEC.key, checkpoint_seconds=0.0, callback=callback)
        except Killed:
            continue
    record, here = json.loads((tmp_path / SPEC.key / "result.json").read_text()), provenance()
    assert record["versions"] == here["versions"] | {"torch": f"{here['versions']['torch']} then 9.9"}
    assert record["machine"] == f"{here['machine']} then another" and record["device"] == "cpu"
    with pytest.raises(UserError, match="the runs differ in torch"):
        results.read(tmp_path)
    assert set(results.read(tmp_path, allow_mixed=True)["torch"]) == {record["versions"]["torch"]}
    monkeypatch.setattr(module, "provenance", elsewhere)
    run(replace(SPEC, seed=1), tmp_path / "fresh")  # without checkpoints of before, only where it was made
    assert json.loads((tmp_path / "fresh" / "result.json").read_text())["machine"] == "another"


def test_what_cannot_be_packed_or_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing but their seed"):
        run_packed([SPEC, replace(SPEC, learner="joint", options={}, seed=1)], [tmp_path / "a", tmp_path / "b"])
    run(SPEC, tmp_path / "mine")
    with pytest.raises(UserError, match=r"holds another run, .* seed 0 $"):
        run(replace(SPEC, seed=5), tmp_path / "mine")
    with pytest.raises(UserError, match=f"'polyak': {SPEC.settings.polyak}"):  # where the label is the same
        run(replace(SPEC, settings=replace(SPEC.settings, polyak=0.7)), tmp_path / "mine")
    (tmp_path / "mine" / "spec.json").unlink()
    (tmp_path / "yours" / "checkpoints").mkdir(parents=True)
    (tmp_path / "yours" / "checkpoints" / "photo.txt").write_text("")
    for folder in ("mine", "yours"):  # a result of who knows what, and no run at all
        with pytest.raises(UserError, match="holds something else"):
            run(replace(SPEC, seed=5), tmp_path / folder)
    assert (tmp_path / "yours" / "checkpoints" / "photo.txt").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        run(SPEC, tmp_path / "file")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "spec.json").write_text("{")
    with pytest.raises(UserError, match=r"spec.json is damaged"):
        run(SPEC, tmp_path / "bad")
    with pytest.raises(UserError, match="no finished run"):
        read_curve(tmp_path / "bad")


def test_commit_is_that_of_the_package_itself(tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert commit(tmp_path) == "unknown"
    git("init", "-q")
    assert commit(tmp_path) == "unknown"  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    assert commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") == "unknown"  # installed inside somebody else's repository
    made = provenance()
    assert {"python", "torch", "gymnasium", "mujoco"} <= set(made["versions"]) and made["machine"] and made["commit"]


def test_what_is_written_is_strict_json_and_numbers_that_are_not_finite_come_back():
    data = {"a": [1.5, math.inf, (-math.inf, "x")], "b": {"c": math.nan, "d": None}}
    text = json_text(data, indent=1)
    assert json.loads(text, parse_constant=pytest.fail)["a"] == [1.5, "inf", ["-inf", "x"]]
    (row,) = checkpoint.rows(json.loads(json_text([[0, "deployed", math.inf, -math.inf, math.nan, 1.5, None]])))
    assert row[:4] == (0, "deployed", math.inf, -math.inf) and math.isnan(row[4]) and row[5:] == (1.5, None)
