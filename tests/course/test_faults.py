"""Every fault a notebook can have, planted on real kernels: each is named as what it was, and nothing remains."""

import json
import os
import subprocess
import threading
import xml.etree.ElementTree as ET

import nbformat
import pytest
from pmeta_course.regression import machine
from pmeta_course.regression.kernels import Kernel, Limits
from pmeta_course.regression.runner import Job

FIGURE = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([0, 1, 2], [0, 1, 4])\nplt.show()"
EMPTY = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.set_title('nothing')\nplt.show()"
WARN = "import sys\nsys.stderr.write('/lib/x.py:3: UserWarning: old thing')"
RECORD = "from pmeta_course import record\nrecord('one', 1.0)\nrecord('mean', [1, 2.5])"
# no fault: a line of more than a million characters, and an output that a later cell updates
LONG = """from IPython.display import display
import sys
for i in range(3):
    print(f"\\r{i} of 3", "x" * 1_500_000 * (i == 1), end="", flush=True)
    print(i, file=sys.stderr, flush=True)
handle = display("before", display_id=True)
print("\\nlast")"""

# name -> (cells after the parameters, reason, part of the message). The faulty cell is the last but one, cell 5.
FAULTS = {
    "exception": (["1 / 0", "3"], "exception", "ZeroDivisionError: division by zero in cell 5"),
    "early_exit": (["import sys; sys.exit(0)", "3"], "ended early", "sys.exit() in cell 5"),
    "sigkill": (["import os; os.kill(os.getpid(), 9)", "3"], "killed", "SIGKILL in cell 5"),
    "sigsegv": (["import ctypes; ctypes.string_at(0)", "3"], "killed", "SIGSEGV in cell 5"),
    "stopped": (["import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "3"], "killed", "SIGSTOP"),
    "os_exit": (["import os; os._exit(0)", "3"], "exited", "exit code 0 in cell 5"),
    "out_of_memory": (
        ["x = []\nwhile True: x.append(b'x' * 10**7)", "3"],
        "out of memory",
        "of at most 0.50 GiB in cell 5",
    ),
    "memory_error": (["raise MemoryError('no room')", "3"], "out of memory", "no room in cell 5"),
    "unsendable": (["raise ValueError('half a character: \\ud800')", "3"], "exception", "could not be sent in cell 5"),
    "displays": (["while True: display(1)", "3"], "output limit", "more than 30 MB of output in cell 5"),
    "printer": (["while True: print('x' * 200)", "3"], "output limit", "in cell 5"),
    "shell_printer": (["!yes", "3"], "output limit", "in cell 5"),
    "warning": ([WARN, "3"], "structure", "cell 5 shows a warning"),
    "empty_axes": ([EMPTY, "3"], "figure", "figure 1 (cell 5) is blank"),
    "not_finite": (["from pmeta_course import record\nrecord('gap', float('nan'))", "3"], "values", "'gap'"),
    "twice": ([RECORD + "\nrecord('one', 2)", "3"], "values", "'one' is recorded twice"),
}
ENDLESS = {
    "endless": (["import time; time.sleep(1e6)", "3"], "time limit", "in cell 5"),
    "stubborn": (
        ["import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass", "3"],
        "time limit",
        "in cell 5",
    ),
}


@pytest.fixture(scope="module")
def faulty(tools, once):
    """All the faults in one folder, two good notebooks among them, run at once."""
    found, folder = once("faults", lambda folder: run_faults(tools, folder))
    found["folder"] = folder
    return found


def run_faults(tools, folder):
    child, mark = (
        "import subprocess\nsubprocess.Popen(['sleep', '4242'], start_new_session=True)",
        f"faults-{os.getpid()}",
    )
    for name, (cells, _, _) in FAULTS.items():
        tools.write(folder / "nb" / f"{name}.ipynb", child, *cells)
    for name in ("a_good", "z_good"):
        tools.write(folder / "nb" / f"{name}.ipynb", child, RECORD, FIGURE, LONG, "handle.update('after')")
    tools.write(folder / "nb" / "no_parameters.ipynb", "1", head=None)
    tools.write(folder / "nb" / "two_parameters.ipynb", "1", tags={1: ["parameters"]})
    tools.write(folder / "nb" / "overwritten.ipynb", "SEED = 3")
    tools.write(folder / "nb" / "unread.ipynb", "1", head="STEPS = 3")
    done = tools.course(
        "--notebooks", folder / "nb", "--out", folder / "out", "--workers", 2, "--memory", 0.5,
        PMETA_TEST=mark,
    )  # fmt: skip
    done.left = tools.processes_with(mark)
    return done


def test_a_cell_without_end_is_ended_at_the_time_limit(tools, tmp_path):
    for name, (cells, _, _) in ENDLESS.items():
        tools.write(tmp_path / "nb" / f"{name}.ipynb", *cells)
    call = ("--notebooks", tmp_path / "nb", "--out", tmp_path / "out", "--workers", 2, "--time-limit", 15)
    done = tools.course(*call, PMETA_TEST=tmp_path.name)
    assert done.code == 1 and tools.processes_with(f"PMETA_TEST={tmp_path.name}") == []
    for name in ENDLESS:
        found = done.notebooks[name]
        assert found["reason"] == "time limit" and "its limit of 15 s in cell 4" in found["message"], found
        assert found["cell"] == 4 and found["seconds"] < 60
    assert "KeyboardInterrupt" in done.notebooks["endless"]["tail"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_as_what_it_was(faulty, name):
    _, reason, message = FAULTS[name]
    found = faulty.notebooks[name]
    assert (found["status"], found["reason"]) == ("failed", reason), found
    assert message in found["message"]
    if "cell 5" in message and reason not in ("structure", "figure"):
        assert (found["cell"], found["cell_id"]) == (5, "cell-4")
        assert FAULTS[name][0][0].splitlines()[0] in found["cell_source"]
    assert (faulty.folder / "out" / f"{name}.ipynb").exists(), "the executed notebook is kept"


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "no_parameters": "no cell is tagged `parameters`",
        "two_parameters": "cells [2, 4] are tagged",
        "overwritten": "cell 4 overwrites the parameter SEED",
        "unread": "STEPS is never read",
    }.items(),
)
def test_a_notebook_whose_parameters_would_be_ignored_fails_unrun(faulty, name, message):
    found = faulty.notebooks[name]
    assert (found["status"], found["reason"], found["kernel_seconds"]) == ("failed", "structure", 0)
    assert message in found["message"]


def test_other_notebooks_complete_and_the_exit_code_says_that_some_failed(faulty):
    assert faulty.code == 1 and faulty.summary["ok"] is False
    for name in ("a_good", "z_good"):
        good = faulty.notebooks[name]
        assert good["status"] == "passed" and len(good["figures"]) == 1, good
        assert good["values"]["mean"]["value"] == [1, 2.5]
        stored = json.loads((faulty.folder / "out" / f"{name}.values.json").read_text())
        assert stored == good["values"]


def test_output_that_is_redrawn_or_updated_ends_as_a_reader_would_see_it(faulty):
    cell = nbformat.read(faulty.folder / "out" / "a_good.ipynb", as_version=4).cells[-2]
    assert [(o.output_type, o.get("text") or o.data["text/plain"]) for o in cell.outputs] == [
        ("stream", "2 of 3 \nlast\n"), ("stream", "0\n1\n2\n"), ("display_data", "'after'"),
    ]  # fmt: skip


def test_a_kernel_killed_while_the_system_ran_out_of_memory_is_told_from_one_that_was_just_killed(tmp_path):
    job = Job("a", tmp_path / "a.ipynb", tmp_path / "out.ipynb", {}, Limits(10, 1e9))
    kernel = Kernel(job, "test", threading.Event())
    kernel.process = subprocess.Popen(["sleep", "100"])
    kernel.process.kill()
    kernel.kills_before = machine.out_of_memory_kills()
    assert kernel.cause_of_death()[0] == "killed"
    kernel.kills_before -= 1  # the system has killed one since this kernel started
    assert kernel.cause_of_death()[0] == "out of memory"


def test_no_process_is_left_behind(faulty):
    assert faulty.left == []


def test_the_last_lines_are_shown(faulty):
    assert "1 / 0" in faulty.notebooks["exception"]["tail"]
    assert "| ZeroDivisionError: division by zero" in faulty.out
    assert "Traceback" not in faulty.err


def test_reports_hold_every_failure(faulty):
    out = faulty.folder / "out"
    suites = {s.get("name"): s for s in ET.parse(out / "junit.xml").getroot()}
    assert suites.keys() == faulty.notebooks.keys()
    assert {n for n, s in suites.items() if s.get("failures") == "0"} == {"a_good", "z_good"}
    page = (out / "report.html").read_text()
    for name, found in faulty.notebooks.items():
        assert f'id="{name}"' in page
        if found["cell"]:
            assert f"<h3>Cell {found['cell']}</h3>" in page
    assert "http" not in page.replace("http://www.w3.org", "") and "data:image/png;base64," in page
