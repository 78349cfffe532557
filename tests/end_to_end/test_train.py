"""`pmeta train` as a user calls it."""

import json
import subprocess
import sys

import pytest

from pmeta_lib.cli import main

QUICK = ["--set", "steps=60", "--set", "hidden=8,8", "--set", "batch_size=8", "--set", "warm_up=20",
         "--set", "evaluations=2", "--set", "evaluation_episodes=1", "--tasks", "2", "--quiet"]  # fmt: skip


def test_train_writes_a_folder_and_says_what_came_out(tmp_path, capsys):
    words = [
        "train",
        "point-robot",
        "--option",
        "lam=0.1",
        "--out",
        str(tmp_path / "run"),
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert main([*words, *QUICK]) == 0
    out = capsys.readouterr().out
    assert "point-robot pmeta lam=0.1 seed 0" in out and "deployed: mean return" in out and "meta: mean return" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["returns"]) == {"deployed", "meta"} and (tmp_path / "run" / "result.json").is_file()
    assert main([*words, *QUICK]) == 0 and "60 steps" not in capsys.readouterr().out  # it is there already


def test_train_goes_on_from_a_checkpoint_and_says_so(tmp_path, capsys):
    from pmeta_lib.experiments.run import run
    from pmeta_lib.experiments.spec import RunSpec
    from pmeta_lib.experiments.train import parse_pairs

    settings = parse_pairs(QUICK[1:12:2], "--set")
    spec = RunSpec("point-robot", settings=settings, train_tasks=2)

    class Killed(BaseException):
        pass

    def kill(run):
        if run.step:
            raise Killed

    with pytest.raises(Killed):
        run(spec, tmp_path, checkpoint_seconds=0.0, callback=kill)
    assert main(["train", "point-robot", "--out", str(tmp_path), *QUICK]) == 0
    assert "going on from the checkpoint of step 29" in capsys.readouterr().out


def test_tensorboard_is_an_optional_sink(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    words = ["train", "point-robot", "--out", str(tmp_path / "run"), "--tensorboard", str(tmp_path / "tb")]
    assert main([*words, *QUICK]) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "tb").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert {"return/deployed/task0", "return/meta/task1", "temperature/slot0"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("return/deployed/task0")] == [0, 30, 60]
    (tmp_path / "file").touch()
    assert main([*words[:-1], str(tmp_path / "file"), *QUICK]) == 2
    assert "this folder cannot be written (Not a directory); give another --tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize("words, text", [
    (["half-cheeta-dir"], "Did you mean 'half-cheetah-dir'"),
    (["point-robot", "--learner", "mamel"], "unknown learner"),
    (["point-robot", "--preset", "pearl"], "unknown preset"), (["point-robot", "--set", "steps"], "NAME=VALUE"),
    (["point-robot", "--set", "stepz=3"], "Did you mean 'steps'"),
    (["point-robot", "--set", "steps=-3"], "setting steps is -3; it must be at least 1"),
    (["point-robot", "--option", "lam=x"], "option lam"), (["point-robot", "--device", "cuda:99"], "not available"),
    (["point-robot", "--device", "tpu"], "not available"),
    (["point-robot", "--tasks", "0"], "train_tasks is 0; it must be at least 1"),
    (["point-robot", "--threads", "0"], "threads"), (["point-robot", "--threads", "100000"], "cores of this machine"),
    (["point-robot", "--set", "steps=10000000000"], "GiB are free"),
    (["pendulum-flip", "--tasks", "3"], "exactly 2 tasks"), (["point-robot", "--tasks", "1000000000"], "at most"),
    (["point-robot", "--seed", str(2**63)], f"seed is {2**63}; it must be less than {2**63}"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(words, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and error.startswith("pmeta: error: ")


def test_a_real_process_shows_no_traceback_and_no_warning(tmp_path):
    call = [sys.executable, "-m", "pmeta_lib.cli", "train", "point-robot", "--out", str(tmp_path / "run"), *QUICK]
    good = subprocess.run(call, capture_output=True, text=True)
    assert good.returncode == 0 and not good.stderr, good.stderr
    (tmp_path / "run" / "spec.json").write_text("{}")
    bad = subprocess.run(call, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "Traceback" not in bad.stderr
