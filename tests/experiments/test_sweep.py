"""The parts of a sweep: packs and claims, attempts, packing, the command's refusals. Faults: tests/end_to_end."""

import errno
import fcntl
import json
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from pmeta_lib import cli
from pmeta_lib.experiments import results, run, worker
from pmeta_lib.experiments.state import State, locked, locked_by_another, progress, settled, state
from pmeta_lib.experiments.sweep import packs, remaining, sweep, unfinished
from pmeta_lib.experiments.sweep_spec import load
from pmeta_lib.experiments.worker import End, attempt, work_through
from pmeta_lib.files import HICCUPS, PAUSES, UserError, patiently, write_json
from pmeta_lib.sac.training import Stopped

SPEC = """
families = "point-robot"
learners = "pmeta"
train_tasks = 2
seeds = "0-3"
pack = 2
settings = { steps = 30, warm_up = 10, hidden = [8], batch_size = 4, evaluations = 2, evaluation_episodes = 1 }
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(SPEC)
    return path


def make_job(out, todo, **how) -> dict:
    job = {"out": str(out), "device": "cpu", "threads": 1, "attempts": 2, "session": "s", "checkpoint_seconds": 60.0}
    return job | {"packs": [[{"key": s.key, "spec": s.to_json()} for s in pack] for pack in todo]} | how


def seeds(todo) -> list[list[int]]:
    return [[s.seed for s in pack] for pack in todo]


def test_what_is_left_is_packed_and_an_interrupted_pack_stays_as_it_was(spec, tmp_path):
    plan, out = load(spec), tmp_path / "out"
    keys = [s.key for s in plan.runs]
    for key in keys:
        (out / key).mkdir(parents=True)
    assert seeds(packs(plan, out)) == [[0, 1], [2, 3]]
    assert seeds(packs(load(spec, pack=3), out)) == [[0, 1, 2], [3]]
    write_json(out / keys[1] / "result.json", {"done": 1})
    assert seeds(packs(plan, out)) == [[0, 2], [3]]
    # killed while the results of the pack were written: its claim still says who belongs to it
    write_json(out / keys[1] / "claim.json", {"pack": keys[1:], "attempts": {}})
    assert seeds(packs(plan, out)) == [[1, 2, 3], [0]]
    (out / keys[1] / "claim.json").write_text('{"pack": [')  # cut short
    assert seeds(packs(plan, out)) == [[0, 2], [3]]
    write_json(out / keys[0] / "failure.json", {"reason": "x"})
    assert seeds(packs(plan, out)) == [[2, 3]]


@pytest.mark.parametrize("how, settings, said", [
    (["--device", "cuda:7"], "", "device 'cuda:7' is not available here; use one of cpu"),
    (["--threads", "1000"], "", "it must lie in [1, "),
    ([], 'settings.precision = "bfloat16"', 'setting precision is "bfloat16", which needs a processor with'),
])  # fmt: skip
def test_what_no_run_could_do_on_this_machine_is_said_once(how, settings, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    (tmp_path / "sweep.toml").write_text(SPEC + f'[[block]]\nlearners = "joint"\n{settings}\n')
    out = tmp_path / "out"
    assert cli.main(["sweep", str(tmp_path / "sweep.toml"), "--out", str(out), *how]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and not told.out
    assert not out.exists()


def test_a_refusal_leaves_failures_as_they_were_and_what_does_not_need_it_runs(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    plan, out = load(spec), tmp_path / "out"
    for planned in plan.runs:
        (out / planned.key).mkdir(parents=True)
        write_json(out / planned.key / "failure.json", {"reason": "Stopped: not finite", "diverged": True})
    how = ["sweep", str(spec), "--out", str(out), "--device", "cuda:7"]
    assert cli.main([*how, "--retry-failed"]) == 2 and len(list(out.rglob("failure.json"))) == 4
    for planned in plan.runs:
        write_json(out / planned.key / "result.json", {"done": 1})
    assert cli.main(how) == 0  # nothing is left to do
    text = SPEC.replace('"pmeta"', '"promp"').replace("steps = 30", 'steps = 80, precision = "bfloat16"')
    spec.write_text(text.replace("0-3", "0-0") + "options.promp = { episodes = 1 }\n")  # on-policy: no such products
    assert cli.main(["sweep", str(spec), "--out", str(tmp_path / "on"), "--jobs", "1"]) == 0


def test_a_checkpoint_swept_away_while_we_look_is_none(tmp_path, monkeypatch):
    def gone(path, pattern):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "glob", gone)
    assert progress([tmp_path]) == [""]


def test_a_run_that_this_machine_cannot_do_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    out = tmp_path / "out"
    assert cli.main(["train", "point-robot", "--set", "precision=bfloat16", "--out", str(out)]) == 2
    assert "needs a processor with" in capsys.readouterr().err and not out.exists()


def test_steps_that_no_iteration_fits_into_are_refused_before_anything_is_written(spec, tmp_path, capsys):
    spec.write_text(SPEC.replace('"pmeta"', '"promp"'))
    for words in (["sweep", str(spec)], ["train", "point-robot", "--learner", "promp", "--set", "steps=30", "--set",
                                         "warm_up=0", "--set", "evaluations=1"]):  # fmt: skip
        assert cli.main([*words, "--out", str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
        assert "setting steps is 30; one iteration of promp" in capsys.readouterr().err


def test_stacked_seeds_give_the_numbers_of_separate_ones_to_rounding(spec, tmp_path):
    tables = {}
    for pack in (1, 2, 4):
        out = tmp_path / str(pack)
        assert work_through(make_job(out, packs(load(spec, pack=pack), out))) == (End.NOTHING_LEFT, "")
        tables[pack] = results.read(out)
        assert set(tables[pack]["packed"]) == {pack}
        assert not list(out.rglob("claim.json")) and not list(out.rglob("checkpoints"))
    for pack in (2, 4):
        assert np.allclose(tables[pack]["return"], tables[1]["return"], rtol=1e-3)
        assert tables[pack]["run"].tolist() == tables[1]["run"].tolist()


class Killed(BaseException):
    """What stands for SIGKILL in this process."""


def test_attempts_that_come_to_nothing_are_counted_and_others_are_not(spec, tmp_path, monkeypatch):
    todo = packs(load(spec), tmp_path)[:1]
    job, folders = make_job(tmp_path, todo), [tmp_path / s.key for s in todo[0]]
    checkpoints, steps = folders[0] / "checkpoints", iter([100, 200, 300, 1000, None, None])

    def killed(*_):
        checkpoints.mkdir(exist_ok=True)
        if step := next(steps):
            (checkpoints / f"step-{step:09d}.json").write_text("{}")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_run", killed)
        for _ in range(6):
            assert not settled(folders)
            with pytest.raises(Killed):
                attempt(job, job["packs"][0])
        with locked(folders[1:]):
            assert not attempt(job, job["packs"][0])  # in other hands: that is no attempt
        assert attempt(job, job["packs"][0]) and settled(folders)
    assert {state(f) for f in folders} == {State.FAILED}
    failure = json.loads((folders[1] / "failure.json").read_text())
    assert failure["reason"] == "its worker died 2 times in a row before it got any further (killed, or out of memory)"
    assert checkpoints.is_dir()
    shutil.rmtree(checkpoints)  # the made-up ones
    for folder in folders:  # --retry-failed, by another driver
        (folder / "failure.json").unlink()
    assert attempt(job | {"session": "t"}, job["packs"][0])
    assert {state(f) for f in folders} == {State.DONE}


class Started(Exception):
    """The driver has come as far as starting its engine."""


@pytest.mark.parametrize("diverged", [False, True])
def test_retrying_goes_on_from_the_checkpoint_unless_it_diverged(spec, tmp_path, diverged, monkeypatch, capsys):
    plan = load(spec, pack=1)
    job, folder = make_job(tmp_path, packs(plan, tmp_path)), tmp_path / plan.runs[0].key
    with monkeypatch.context() as patch:
        error = Stopped("not finite") if diverged else UserError("cannot write the results")
        patch.setattr(run, "_write", Mock(side_effect=error))  # at the end, when there is a checkpoint
        assert attempt(job, job["packs"][0]) and state(folder) is State.FAILED
    assert json.loads((folder / "failure.json").read_text())["diverged"] is diverged
    with pytest.raises(Started):
        sweep(plan, tmp_path, Mock(side_effect=Started), retry_failed=True)
    assert state(folder) is State.WAITING
    assert attempt(job | {"session": "t"}, job["packs"][0]) and state(folder) is State.DONE
    assert ("going on from the checkpoint of step 30" in capsys.readouterr().out) is not diverged
    assert not (folder / "claim.json").exists() and not (folder / "checkpoints").exists()


def test_a_run_that_another_worker_has_done_did_not_fail(spec, tmp_path, monkeypatch):
    """Where locks lock nobody out, the other worker ends first and takes the checkpoints from under this one."""
    todo = packs(load(spec), tmp_path)[:1]
    job, folders = make_job(tmp_path, todo), [tmp_path / s.key for s in todo[0]]

    def overtaken(*_, **__):
        for folder in folders:
            write_json(folder / "result.json", {"done": 1})
        raise FileNotFoundError(errno.ENOENT, "no such file", "checkpoints")

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_packed", overtaken)
        assert attempt(job, job["packs"][0])
    assert {state(f) for f in folders} == {State.DONE} and not list(tmp_path.glob("*/failure.json"))


@pytest.mark.parametrize("number", HICCUPS)
def test_a_hiccup_is_waited_out_with_growing_pauses_and_other_errors_are_not(number, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    call = Mock(side_effect=[*[OSError(number, "away")] * 4, "back"])
    assert patiently(call, 1, to=2) == "back" and call.call_args_list == [((1,), {"to": 2})] * 5
    assert len(pauses) == 4 and all(b == 2 * a for a, b in pairwise(pauses))
    with pytest.raises(OSError):
        patiently(Mock(side_effect=OSError(number, "away for good")))
    assert len(pauses) == 4 + len(PAUSES) and 60 < sum(PAUSES) < 300
    for other in (OSError(errno.ENOSPC, "full"), FileNotFoundError(errno.ENOENT, "gone"), ValueError()):
        with pytest.raises(type(other)):
            patiently(Mock(side_effect=[other, "not reached"]))


def test_the_help_starts_where_there_is_no_fcntl():
    """As on Windows. The locks are filelock's, which has others there."""
    code = "import sys; sys.modules['fcntl'] = None; from pmeta_lib.cli import main; main(['sweep', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--retry-failed" in done.stdout, done.stderr


def test_a_lock_is_one_holders_and_all_or_none(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    with locked([a, b]) as mine:
        assert mine
        with locked([c, b]) as second:
            assert not second
        with locked([c]) as free:  # the failed attempt kept nothing
            assert free
    with locked([b, c]) as after:
        assert after


@pytest.mark.parametrize("while_it_is", [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN])
def test_a_hiccup_while_a_lock_is_taken_or_given_back(tmp_path, monkeypatch, while_it_is):
    real, failing = fcntl.flock, []

    def flock(descriptor, how):
        if how == while_it_is and failing:
            raise OSError(failing.pop(), "no locks for now")
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for _ in range(2):  # the second time finds it free
        failing += [errno.ENOLCK, errno.EIO]
        with locked([tmp_path / "a", tmp_path / "b"]) as mine:
            assert mine and locked_by_another(tmp_path / "a")
        assert not failing
    failing += [errno.ENOLCK] * (while_it_is == fcntl.LOCK_UN)
    assert not locked_by_another(tmp_path / "a") and not locked_by_another(tmp_path / "b")
    with locked([tmp_path / "a"]) as mine:
        assert mine and not failing


@pytest.mark.parametrize("engine, module, extra", [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_a_missing_extra_is_one_line(spec, tmp_path, capsys, monkeypatch, engine, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--engine", engine]) == 2
    said = capsys.readouterr().err.strip()
    assert f"pip install 'pmeta_lib[{extra}]'" in said and "\n" not in said


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["SPEC", "--out", "x", "--engine", "dask"], "unknown engine 'dask'"),
        (["SPEC", "--out", "x", "--jobs", "0"], "--jobs is 0"),
        (["SPEC", "--out", "x", "--pack", "-1"], "--pack is -1"),
        (["SPEC"], "--out is missing"),
        (["SPEC", "SPEC"], "one sweep at a time"),
        (["status"], "name a sweep folder"),
        (["status", "nowhere"], "is not a folder"),
        (["SPEC", "--out", "SPEC"], "cannot write"),
    ],
)
def test_the_commands_refusals_are_one_line(spec, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(spec.parent)
    assert cli.main(["sweep", *(str(spec) if a == "SPEC" else a for a in arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said and "\n" not in said


def test_status_counts_what_the_folders_say(spec, tmp_path, capsys):
    out, target = tmp_path / "out", tmp_path / "status.json"
    plan = load(spec)
    for planned in plan.runs:
        (out / planned.key).mkdir(parents=True)
        write_json(out / planned.key / "spec.json", planned.to_json())
    keys = [s.key for s in plan.runs]
    write_json(out / keys[0] / "result.json", {"done": 1})
    write_json(out / keys[1] / "failure.json", {"reason": "Stopped: not finite", "log": "there"})
    with locked([out / keys[2]]):
        assert cli.main(["sweep", "status", str(out), "--json", str(target)]) == 1
    said = capsys.readouterr().out
    assert "4 planned, 1 done, 1 failed, 1 running, 1 waiting" in said and "Stopped: not finite (log: there)" in said
    assert json.loads(target.read_text())["waiting"] == 1


def test_the_time_to_go_follows_the_pace_so_far():
    assert remaining(100.0, 100.0, 0.0, 4) == 25.0  # nothing done: the estimate, shared by four workers
    assert remaining(75.0, 100.0, 30.0, 4) == pytest.approx(90.0)  # a quarter took 30 s, so three quarters take 90
    assert remaining(0.0, 100.0, 30.0, 4) == 0.0 and remaining(0.0, 0.0, 0.0, 1) == 0.0


def test_what_a_checkpoint_has_behind_it_is_no_longer_ahead(spec, tmp_path):
    plan, out = load(spec), tmp_path / "out"
    runs = {s.key: s for s in plan.runs}
    one, two, three, four = runs
    left = {(one, two): 100.0, (three, four): 60.0}
    for key in (one, three):
        (out / key / "checkpoints").mkdir(parents=True)
    assert unfinished(out, runs, left) == 160.0
    for step in (12, 18):  # of 30
        write_json(out / one / "checkpoints" / f"step-{step:09}.json", {})
    write_json(out / three / "checkpoints" / "step-of-somebody.json", {})
    assert unfinished(out, runs, left) == pytest.approx(40.0 + 60.0)
    write_json(out / one / "checkpoints" / "step-000000032.json", {})  # sixteen environments: the next multiple
    assert unfinished(out, runs, left) == pytest.approx(0.0 + 60.0)
    (out / one / "checkpoints" / "step-000000032.json").unlink()
    write_json(out / three / "result.json", {"done": 1})  # the pack's other run is not
    assert unfinished(out, runs, left) == pytest.approx(100.0)
