"""The run as a whole: mistakes in the call, two runs at once, being stopped, many runs in a row."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from pmeta_course.regression import session

from pmeta_lib import cli

RECORD = "from pmeta_course import record\nrecord('sum', sum(range(1000)) * 1.1)\nprint('done')"


@pytest.fixture(scope="module")
def folder(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runner")
    for k in range(3):
        tools.write(folder / "nb" / f"0{k}_short.ipynb", RECORD)
    tools.write(folder / "slow" / "00_slow.ipynb", "import time\ntime.sleep(120)")
    bad = '{"values": {"sum": {"value": 1}}}'
    for name, text in (("EXPECTED/quick/03_gone", "{}"), ("BROKEN/quick/00_short", bad)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).with_suffix(".json").write_text(text)
    (folder / "NOTEBOOKS").symlink_to(folder / "nb")
    return folder


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--profile", "fast"], "unknown profile 'fast'. Choose from: smoke, quick, full."),
        (["--only", "17"], "unknown notebook '17' in"),
        (["--only", "00_shor"], "Did you mean '00_short'?"),
        (["-p", "SEDE=1"], "unknown parameter 'SEDE' in 00_short.ipynb. Did you mean 'SEED'?"),
        (["-p", "SEED=one"], "parameter SEED=one: 00_short.ipynb declares it as int, not str"),
        (["-p", "SEED"], "write it as NAME=VALUE"),
        (["-p", "PROFILE=smoke"], "use --profile instead"),
        (["--out", "/proc/nowhere"], "this folder cannot be written"),
        (["--out", __file__], "this folder cannot be written"),
        (["--out", "NOTEBOOKS"], "the notebooks are here and would be overwritten"),
        (["--bless", "--reason", "x", "--expected", __file__], "this folder cannot be written"),
        (["--compare", "--expected", "EXPECTED"], "expects 03_gone, which"),
        (["--expected", "BROKEN"], "without its type, kind or tolerance"),
        (["--notebooks", "nowhere"], "there is no such folder"),
        (["--workers", "0"], "--workers 0: it must be more than 0"),
        (["--bless"], "--bless needs a reason"),
        (["--seeds", "1", "2"], "needs at least 3"),
        (["--store", "--profile", "smoke"], "--store keeps outputs of the profile quick"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_exit_code_2(folder, args, message, capsys):
    args = [folder / a if a in ("NOTEBOOKS", "EXPECTED", "BROKEN") else a for a in args]
    call = ["--notebooks", folder / "nb", *args] if "--notebooks" not in args else args
    if "--out" not in args:
        call += ["--out", folder / "mistakes"]
    assert cli.main(["course", *map(str, call)]) == 2
    found = capsys.readouterr()
    assert message in found.err and found.err.count("\n") == 1 and found.out == ""
    assert len(list((folder / "nb").glob("*.ipynb"))) == 3


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cells": 3, "nbformat": 4}'])
def test_a_broken_notebook_file_is_named(tmp_path, capsys, text):
    (tmp_path / "broken.ipynb").write_text(text)
    assert cli.main(["course", "--notebooks", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    found = capsys.readouterr().err
    assert "broken.ipynb is not a notebook" in found and found.count("\n") == 1


def heed_interrupts():
    """Where the tests themselves run in a shell's background, SIGINT is ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(tools, folder, out, **extra):
    """A run in its endless cell."""
    call = tools.command("--notebooks", folder / "slow", "--out", out)
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=tools.env(**extra), start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    token, end = extra["PMETA_TEST"], time.monotonic() + 60
    while time.monotonic() < end:  # the runner, its helper and the kernel
        if len(tools.processes_with(token)) >= 3 and (out / "00_slow.log").exists():
            break
        time.sleep(0.2)
    time.sleep(2)
    assert process.poll() is None
    return process


def gone(tools, token, seconds=15):
    end = time.monotonic() + seconds
    while time.monotonic() < end and tools.processes_with(token):
        time.sleep(0.2)
    return tools.processes_with(token) == []


def test_two_runs_on_one_folder_then_killed_then_free_again(tools, folder):
    out, token = folder / "shared", "killed-outright"
    first = start(tools, folder, out, PMETA_TEST=token)
    second = tools.course("--notebooks", folder / "nb", "--out", out, "--only", "00")
    assert second.code == 2 and second.err.count("\n") == 1 and "another run is using this folder" in second.err
    assert len(tools.processes_with(token)) >= 3, "the first run goes on"
    first.kill()
    first.communicate()
    assert gone(tools, token), "a runner that is killed outright leaves no kernel"
    assert tools.course("--notebooks", folder / "nb", "--out", out, "--only", "00").code == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_so_and_leaves_nothing(tools, folder, how):
    out, token = folder / how.name, f"stopped-by-{how.name}"
    process = start(tools, folder, out, PMETA_TEST=token)
    os.kill(process.pid, how)
    text, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "stopped" in text and (out / "summary.json").exists() and (out / "00_slow.ipynb").exists()
    assert gone(tools, token, 2)


def test_a_second_signal_before_any_report_makes_no_success_of_it(folder, monkeypatch, capsys):
    """The second one interrupts the clearing up after the first, and nothing is known of what was running."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run_all", interrupted)
    out = folder / "twice"
    assert cli.main(["course", "--notebooks", str(folder / "nb"), "--out", str(out)]) == 130
    summary = json.loads((out / "summary.json").read_text())
    assert not summary["ok"] and {n["status"] for n in summary["notebooks"]} == {"not run"}
    assert "all 3 passed" not in capsys.readouterr().out and len(summary["notebooks"]) == 3


@pytest.mark.parametrize("workers", [2, 4])
def test_ten_runs_in_a_row_agree(tools, tmp_path, capsys, workers):
    for k in range(workers):
        tools.write(tmp_path / "nb" / f"{k}.ipynb", RECORD)
    call = ["course", "--notebooks", str(tmp_path / "nb"), "--out", str(tmp_path), "--workers", str(workers)]
    assert cli.main([*call, "--bless", "--reason", "first"]) == 0
    for _ in range(10):
        assert cli.main([*call, "--compare"]) == 0, capsys.readouterr().out
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert [n["rows"][0]["away"] for n in summary["notebooks"]] == [0.0] * workers == [0.0] * summary["workers"]


def test_progress_and_summary_say_where_things_are(tools, folder):
    done = tools.course(
        "--notebooks",
        folder / "nb",
        "--out",
        folder / "told",
        "--only",
        0,
        1,
        "--expected",
        folder / "none",
        "--workers",
        1,
    )
    again = tools.course("--notebooks", folder / "nb", "--out", folder / "told", "--only", 0, 1, "--workers", 2)
    lines = done.out.splitlines()
    assert "no recorded times yet" in lines[0] and "about" in again.out.splitlines()[0]
    assert sum(line.startswith("✔") for line in lines) == 2 and "[2/2," in done.out
    assert "(expected" in again.out and str(folder / "told") in lines[-1]
    assert done.summary["ok"] and done.summary["notebooks"][0]["executed"] == "00_short.ipynb"


def test_kernels_use_this_interpreter_their_share_of_threads_and_the_notebooks_folder(tools, tmp_path):
    cell = "import os, sys\nfrom pmeta_course import record\nrecord('python', sys.executable)\n"
    cell += "record('threads', os.environ['OMP_NUM_THREADS'])\nrecord('here', os.getcwd())\nrecord('seed', SEED)"
    tools.write(tmp_path / "nb" / "a.ipynb", cell)
    deep = tmp_path / ("a folder with {braces} and a long name " * 3).strip()
    done = tools.course(
        "--notebooks",
        tmp_path / "nb",
        "--out",
        deep,
        "--workers",
        1,
        "-p",
        "SEED=5",
        MPLBACKEND="Agg",
        TMPDIR=deep.parent,
    )
    values = {k: v["value"] for k, v in done.notebooks["a"]["values"].items()}
    assert values["python"] == sys.executable and values["here"] == str(tmp_path / "nb") and values["seed"] == 5
    assert values["threads"] == str(len(os.sched_getaffinity(0)))
    assert (deep / "a.ipynb").exists()
