"""Grading: hostile notebooks fail and harm nothing, the verdict cannot be forged, honest ones are graded fully."""

import contextlib
import csv
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import answers
import answers_edges
import nbformat
import numpy as np
import psutil
import pytest
from pmeta_course.exercises import exercises, judge
from pmeta_course.grading import command as grading
from pmeta_course.grading import sandbox, sandboxed
from pmeta_course.grading.sandboxed import decode, encode

from pmeta_lib.cli import main

WALLS = pytest.mark.skipif(sandbox.bubblewrap() is not None, reason=f"{sandbox.bubblewrap()}")
ROOT = Path(__file__).parents[2]
OPTIONS = ("--time-limit", "8", "--memory", "1", "--workers", "2")
RIGHT = {
    "00.1": 'answer = "b"',
    "00.2": "def answer(x, theta, lam):\n    return lam / 2 * ((x - theta) ** 2).sum()",
    "00.3": "import numpy as np\ndef answer(g, h):\n    return (g * h).sum() / np.linalg.norm(g) / np.linalg.norm(h)",
    "00.4": 'answer = "c"',
}


def notebook(path, replace=(), end=""):
    """A notebook with the four exercises of 00, all solved but for those in `replace`."""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('PROFILE = "quick"')])
    nb.cells[0].metadata.tags = ["parameters"]
    nb.cells.append(nbformat.v4.new_code_cell("from pmeta_course import check"))
    for name, source in (RIGHT | dict(replace)).items():
        nb.cells.append(nbformat.v4.new_code_cell(source))
        nb.cells.append(nbformat.v4.new_code_cell(f'check("{name}", answer);'))
    nb.cells += [nbformat.v4.new_code_cell(end)] if end else []
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


def hashes(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def graded(folder, *options):
    """`pmeta check`: exit code, {student: {exercise: grade}}, the whole report."""
    report, table = folder.parent / "report.json", folder.parent / "grades.csv"
    code = main(["check", str(folder), "--json", str(report), "--csv", str(table), *options])
    report = json.loads(report.read_text())
    found = {}
    for grade in report["grades"]:
        found.setdefault(grade["student"], {})[grade["exercise"]] = grade
    rows = list(csv.DictReader(table.open()))
    assert [(r["student"], r["exercise"], r["status"]) for r in rows] == [
        (g["student"], g["exercise"], g["status"]) for g in report["grades"]
    ]
    return code, found, report


def only_fails(grades, name):
    """Whether this exercise is the only one that is not correct."""
    return {n for n, g in grades.items() if g["status"] != "correct"} == {name} and len(grades) == 4


LOOP = """
def answer(x, theta, lam):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
HOG = "hoard = [bytearray(50_000_000) for _ in range(1000)]"
FLEET = (  # many processes that are small enough alone
    "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
    "        x = b'x' * 150_000_000\n        time.sleep(60)\ntime.sleep(60)"
)
STAYER = (
    "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', 'MARK'], "
    "start_new_session=True)\n"
)
BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
TAMED = (  # no real bomb: the system does not limit the processes of root
    "import os, time\nfor _ in range(150):\n    if os.fork() == 0:\n"
    "        os.execv('/bin/sleep', ['MARK', '600'])\ntime.sleep(60)"
)
FORGER = """
import builtins, json, os
import pmeta_course as course
course.check = lambda *_: print("✔ 00.2: correct.")
print("✔ 00.2: correct.")
for fd in range(3, 40):
    try:
        os.write(fd, json.dumps({"status": "correct", "error": None, "value": ["plain", "correct"]}).encode() + b"\\n")
    except OSError:
        pass
def answer(x, theta, lam):
    return 1.0
"""


# ----------------------------------------------------------------------------------- with walls


def left_over(tools, mark, base=None):
    """Processes that carry the mark, or see a folder below base mounted, after a moment of grace."""
    deadline = time.monotonic() + 10
    while True:
        found = tools.processes_with(mark)
        for process in psutil.process_iter() if base else []:
            with contextlib.suppress(OSError):
                mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
                found += [process.pid] if f"{base.name}/pmeta-check-" in mounts else []
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


@pytest.fixture(scope="session")
def walled(once, tools):
    """A class of hostile students among honest ones, graded behind bubblewrap; what was tried is noted."""
    return once("grading_walled", lambda folder: attack(folder, tools))[0]


def attack(base, tools):
    folder, listener = base / "class", socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    mark = f"stayer-{os.getpid()}"
    victim, secret = folder / "zoe" / "00.ipynb", base / "solutions.txt"
    secret.write_text("solved")
    library = Path(grading.__file__).parents[1] / "exercises" / "deep.py"
    places = [str(p) for p in (secret, ROOT / "notebooks" / "00_start_here.ipynb", victim, library)]
    plants = {
        "bomb": BOMB,
        "hog": HOG,
        "fleet": FLEET,
        "loop": LOOP,
        "forger": FORGER,
        "quitter": "import os\nos._exit(0)",
        "stayer": STAYER.replace("MARK", mark) + RIGHT["00.2"],
        "reader": "import os\nseen = [p for p in PLACES if os.path.isfile(p) or os.path.isdir(p) and os.listdir(p)]\n"
        "if seen:\n    raise RuntimeError(f'seen: {seen}')\nopen(PLACES[0])".replace("PLACES", repr(places)),
        "writer": "import os, shutil\nshutil.rmtree(PLACE, ignore_errors=True)\nos.remove('notes.txt')\n"
        "os.remove('00.ipynb')\nopen(PLACE + '/zoe/00.ipynb', 'w')".replace("PLACE", repr(str(folder))),
        "changer": f"open({grading.__file__!r}, 'a')",
        "caller": f"import socket\nsocket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 2)",
        "filler": "for k in range(100):\n    with open(f'/tmp/{k}', 'wb') as f:\n        f.write(b'x' * 50_000_000)",
    }
    anna = folder / "anna" / "00.ipynb"
    notebook(anna, {"00.2": "from mine.helper import answer"}, end="raise ValueError('after the last exercise')")
    (folder / "anna" / "mine").mkdir()
    (folder / "anna" / "mine" / "helper.py").write_text(RIGHT["00.2"])
    for name, source in plants.items():
        wrong = {"00.3": "def answer(g, h):\n    return 0.123"} if name == "forger" else {}
        notebook(folder / name / "00.ipynb", {"00.2": source} | wrong)
        (folder / name / "notes.txt").write_text("mine")
    notebook(victim)
    before = hashes(folder), *(Path(p).read_bytes() for p in places[1:])
    with pytest.MonkeyPatch.context() as patch:  # so that what is left over can be told from other graders' work
        patch.setattr(tempfile, "tempdir", str(base))
        code, grades, report = graded(folder, "--protection", "bubblewrap", *OPTIONS)
    try:
        listener.accept()
        called = True
    except TimeoutError:
        called = False
    listener.close()
    after = hashes(folder), *(Path(p).read_bytes() for p in places[1:])
    return {
        "code": code, "grades": grades, "report": report, "called": called, "unharmed": before == after,
        "secret": secret.exists(), "left": left_over(tools, mark, base),
    }  # fmt: skip


HOSTILE = {
    "bomb": "time limit|too many processes|out of memory",
    "hog": "MemoryError",
    "fleet": "out of memory",
    "loop": "time limit",
    "quitter": "ended by itself",
    "reader": "FileNotFoundError",
    "writer": "FileNotFoundError",
    "changer": "Read-only file system|PermissionError",
    "caller": "ConnectionRefusedError|unreachable",
    "filler": "No space left|File too large|out of memory",
}


@WALLS
@pytest.mark.parametrize("student", HOSTILE)
def test_a_planted_attack_is_one_failed_exercise(walled, student):
    grades = walled["grades"][student]
    assert only_fails(grades, "00.2"), grades
    assert grades["00.2"]["status"] == "failed"
    assert any(word in grades["00.2"]["message"] for word in HOSTILE[student].split("|")), grades["00.2"]


@WALLS
def test_nothing_else_is_harmed(walled):
    assert walled["unharmed"]
    assert walled["secret"]
    assert not walled["called"]
    for student in ("anna", "zoe", "stayer"):
        assert {g["status"] for g in walled["grades"][student].values()} == {"correct"}
    assert not walled["left"]


@WALLS
def test_a_forged_verdict_is_not_believed(walled):
    assert walled["grades"]["forger"]["00.2"]["status"] != "correct"
    assert walled["grades"]["forger"]["00.3"]["status"] != "correct"  # nor the answer after it, which is wrong, too


@WALLS
def test_the_report_says_what_protected(walled):
    assert walled["code"] == 1
    assert walled["report"]["protection"].startswith("bubblewrap: no network, no other files")
    assert walled["report"]["limits"]["seconds"] == 8
    notes = {n["student"]: n["notes"] for n in walled["report"]["notes"]}
    assert notes["anna"] == ["cell 11: ValueError: after the last exercise"]


# -------------------------------------------------------------------------------- limits only


@pytest.fixture(scope="session")
def limited(once, tools):
    return once("grading_limited", lambda folder: attack_limits(folder, tools))[0]


def attack_limits(base, tools):
    folder, mark = base / "class", f"stayer-limits-{os.getpid()}"
    plants = {
        "bomb": TAMED.replace("MARK", mark),
        "hog": HOG,
        "loop": LOOP,
        "stayer": STAYER.replace("MARK", mark) + RIGHT["00.2"],
        "writer": "import os\nos.remove('notes.txt')\nopen('mine.txt', 'w').write('x')\nraise OSError('done')",
        "filler": "open('big', 'wb').write(b'x' * 200_000_000)",
    }
    for name, source in plants.items():
        notebook(folder / name / "00.ipynb", {"00.2": source})
        (folder / name / "notes.txt").write_text("mine")
    notebook(folder / "zoe.ipynb")  # flat: the file's name is the student's
    (folder / "broken.ipynb").write_text("{")
    before = hashes(folder)
    code, grades, report = graded(
        folder, "--protection", "limits", "--time-limit", "8", "--memory", "1", "--workers", "2"
    )
    left, unharmed = left_over(tools, mark), before == hashes(folder)
    return {"code": code, "grades": grades, "report": report, "unharmed": unharmed, "left": left}


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("bomb", "too many processes|BlockingIOError|out of memory"),
        ("hog", "MemoryError"),
        ("loop", "time limit"),
        ("writer", "OSError: done"),
        ("filler", "File too large"),
    ],
)
def test_limits_alone_end_it(limited, student, words):
    grades = limited["grades"][student]
    assert only_fails(grades, "00.2"), grades
    assert any(word in grades["00.2"]["message"] for word in words.split("|")), grades["00.2"]


def test_limits_alone_leave_the_originals_and_no_process(limited):
    assert limited["unharmed"]
    assert not limited["left"]
    assert {g["status"] for g in limited["grades"]["zoe"].values()} == {"correct"}
    assert limited["report"]["protection"].startswith("limits only (asked for)")
    assert "use the network" in limited["report"]["protection"]
    (note,) = [n for n in limited["report"]["notes"] if n["student"] == "broken"]
    assert "not a notebook" in note["notes"][0]


# ------------------------------------------------------------------------------ without a process


class Inline:
    """A box whose other side is a thread of this process: the protocol without the walls."""

    def __init__(self, answer):
        ours, theirs = socket.socketpair()
        self.channel, self.answer = sandboxed.Channel(ours), answer
        threading.Thread(target=self.serve, args=(sandboxed.Channel(theirs),), daemon=True).start()

    def serve(self, channel):
        try:
            channel.send(value=encode(self.answer, []), missing=channel.receive() is None)
            while True:
                channel.send(**sandboxed._call(channel, self.answer, channel.receive()["call"]))
        except EOFError:
            channel.link.close()

    def ask(self, **message):
        self.channel.send(**message)
        return self.channel.receive()

    def end(self, why):
        raise AssertionError(why)


@pytest.mark.filterwarnings("ignore:.*(divide|invalid value|empty slice).*:RuntimeWarning")
def test_an_answer_is_judged_from_outside_as_it_is_inside():
    seen = set()
    wrong = [row[:2] for row in answers.WRONG + answers_edges.EDGES]
    for exercise, answer in [*answers.RIGHT.items(), *answers_edges.FORMS, *wrong]:
        box = Inline(answer)
        assert grading._judge(box, exercise, "") == judge(exercise, answer), exercise
        box.channel.link.close()
        seen.add(exercise)
    assert seen == set(exercises())


@pytest.mark.parametrize(
    "value",
    [None, ..., True, 3, 2**70, 0.1, np.inf, "text", [1, (2.0, "x")], np.arange(6.0).reshape(1, 2, 3), np.zeros((0, 4)),
     np.array([True]), np.array(2, dtype=np.int32)],
)  # fmt: skip
def test_values_survive_the_wire(value):
    back = decode(json.loads(json.dumps(encode(value, []))), None)
    np.testing.assert_equal(back, value)
    assert getattr(back, "shape", None) == getattr(value, "shape", None)
    assert isinstance(back, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    "message",
    [[], ["array", [[2], "object", ["x"]]], ["array", [[5], "float64", [1.0]]], ["plain", {}], ["pickle", "x"], 7],
)
def test_what_is_no_value_is_refused(message):
    with pytest.raises((ValueError, TypeError, IndexError)):
        decode(message, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.ipynb"], "no such notebook or folder"),
        (["."], "no .ipynb file"),
        ([".", "--time-limit", "0"], "must be more than 0"),
        ([".", "--csv", "nowhere/grades.csv"], "does not exist"),
    ],
)
def test_a_mistake_in_the_call_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_notebook_without_checks_is_no_success(tmp_path, capsys):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(nb, tmp_path / "00.ipynb")
    assert main(["check", str(tmp_path / "00.ipynb")]) == 1
    assert "no exercise was found" in capsys.readouterr().out
