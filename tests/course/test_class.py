"""A class of thirty, every mishap in it once: one row at least for each student, and the right grade."""

import csv
import json
import os
import threading

import nbformat
import pytest
from pmeta_course.grading.command import find

from pmeta_lib.cli import main

RIGHT = {
    "00.1": 'answer = "b"',
    "00.2": "def answer(x, theta, lam):\n    return lam / 2 * ((x - theta) ** 2).sum()",
    "00.3": "import numpy as np\ndef answer(g, h):\n    return (g * h).sum() / np.linalg.norm(g) / np.linalg.norm(h)",
    "00.4": 'answer = "c"',
}
HEAD = 'PROFILE = "quick"'
CHECK = 'check("{}", answer);'


def cells(**changes):
    """The cells of a solved notebook 00 as (source, tags); a change by "c2" replaces the check of 00.2, by "a2" the
    answer before it; None drops the cell."""
    found = [(changes.get("head", HEAD), ["parameters"]), ("from pmeta_course import check", [])]
    for name, source in RIGHT.items():
        k = name[-1]
        found.append((changes.get(f"a{k}", source), ["exercise"]))
        found.append((changes.get(f"c{k}", CHECK.format(name)), []))
    return [(source, tags) for source, tags in found if source is not None]


def notebook(cells, tagged=True):
    nb = nbformat.v4.new_notebook()
    for source, tags in cells:
        nb.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags} if tagged else {}))
    return nb


def raw(nb, minor=5, id=...):
    """A notebook as data, in an older minor version without ids, or with one id for all cells."""
    data = json.loads(nbformat.writes(nb)) | {"nbformat_minor": minor}
    for cell in data["cells"]:
        if id is ...:
            cell.pop("id")
        else:
            cell["id"] = id
    return json.dumps(data)


MERGED = RIGHT["00.2"] + '\ncheck("00.2", answer);'
TAGGED = "import os\nassert PROFILE == 'smoke', PROFILE"
ALL = dict.fromkeys(RIGHT, "correct")
# student -> (the notebook's cells, grades, words of a note)
MISHAPS = {
    "honest": (cells(), ALL, None),
    "comment": (cells(c2="# my answer is checked here\n" + CHECK.format("00.2")), ALL, None),
    "commented_all": (cells(**{f"c{k}": f"# hi\n{CHECK.format(f'00.{k}')}" for k in "1234"}), ALL, None),
    "no_semicolon": (cells(c3='check("00.3", answer)'), ALL, None),
    "spaces": (cells(c3="\n\n  \ncheck( '00.3' ,answer )  ;\n"), ALL, None),
    "merged": (cells(a2=MERGED, c2=None), ALL, "cell with other code"),
    "merged_below": (cells(c2=CHECK.format("00.2") + "\nprint('done')"), ALL, "cell with other code"),
    "renamed": (cells(a2=RIGHT["00.2"].replace("answer", "mine"), c2='check("00.2", mine);'), ALL, "names mine"),
    "keywords": (cells(c2='check(name="00.2", answer=answer)'), ALL, None),
    "short_name": (cells(c2='check("0.2", answer)'), ALL, None),
    "printed": (cells(c2='print(check("00.2", answer))'), ALL, None),
    "assigned": (cells(c2='ok = check("00.2", answer)'), ALL, "cell with other code"),
    "guarded": (cells(c2='if True:\n    check("00.2", answer)'), ALL, "cell with other code"),
    "qualified": (cells(c2='import pmeta_course\npmeta_course.check("00.2", answer)'), ALL, "cell with other code"),
    "magic": (cells(c2='%time 1\ncheck("00.2", answer)'), ALL, "cell with other code"),
    "dropped": (cells(c2=None), ALL, "its check cell is missing"),
    "dropped_last": (cells(c4=None), ALL, "its check cell is missing"),
    "broken_check": (cells(c2='check("00.2", answer'), ALL, "not valid Python"),
    "untagged": (cells(a4=f"{TAGGED}\n{RIGHT['00.4']}"), ALL, None),
    "wrong": (cells(a2=RIGHT["00.2"].replace("2", "3", 1)), ALL | {"00.2": "wrong"}, None),
    "merged_wrong": (cells(a2=MERGED.replace("2", "3", 1), c2=None), ALL | {"00.2": "wrong"}, "with other code"),
    "not_yet": (cells(a2="def answer(x, theta, lam):\n    raise NotImplementedError"), ALL | {"00.2": "not yet"}, None),
    "none_at_all": (cells(c1=None, c2=None, c3=None, c4=None), dict.fromkeys(RIGHT, "failed"), "no exercise was found"),
}
FILES = {  # student -> (file, its bytes from the solved notebook, grades, words of a note)
    "bom": ("00.ipynb", lambda nb: b"\xef\xbb\xbf" + nbformat.writes(nb).encode(), ALL, None),
    "ending": ("00.ipynb.txt", lambda nb: nbformat.writes(nb).encode(), ALL, "does not end in .ipynb"),
    "json": ("homework.json", lambda nb: nbformat.writes(nb).encode(), ALL, "does not end in .ipynb"),
    "upper": ("00.IPYNB", lambda nb: nbformat.writes(nb).encode(), ALL, "does not end in .ipynb"),
    "version3": ("00.ipynb", lambda nb: nbformat.writes(nbformat.convert(nb, 3), version=3).encode(), ALL, None),
    "no_ids": ("00.ipynb", lambda nb: raw(nb, 4).encode(), ALL, None),
    "one_id": ("00.ipynb", lambda nb: raw(nb, id="same").encode(), ALL, None),
    "latin": ("00.ipynb", lambda nb: nbformat.writes(nb).replace("PROFILE", "PROFILE_\xe9").encode("latin-1"),
              {"": "failed"}, "not a notebook"),
    "truncated": ("00.ipynb", lambda nb: nbformat.writes(nb).encode()[:300], {"": "failed"}, "not a notebook"),
    "empty_file": ("00.ipynb", lambda nb: b"", {"": "failed"}, "not a notebook"),
    "python": ("00.py", lambda nb: b"answer = 'b'", {"": "failed"}, "no notebook was handed in: 00.py"),
}  # fmt: skip


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """The class, graded once: exit code, {student: {exercise: status}}, {student: notes}."""
    base = tmp_path_factory.mktemp("class")
    folder = base / "class"
    for student, (found, _, _) in MISHAPS.items():
        (folder / student).mkdir(parents=True)
        nbformat.write(notebook(found, tagged=student != "untagged"), folder / student / "00_start_here.ipynb")
    for student, (name, data, _, _) in FILES.items():
        (folder / student).mkdir()
        (folder / student / name).write_bytes(data(notebook(cells())))
    (folder / "nothing").mkdir()
    (folder / "linked").mkdir()
    nbformat.write(notebook(cells()), base / "somebody_elses.ipynb")
    (folder / "linked" / "00.ipynb").symlink_to(base / "somebody_elses.ipynb")
    (folder / "flat.ipynb.txt").write_text(nbformat.writes(notebook(cells())))
    (folder / "essay.pdf").write_bytes(b"%PDF")
    (folder / "grades.csv").write_text("a teacher's own file")
    (folder / ".DS_Store").write_bytes(b"x")
    report, table = base / "report.json", base / "grades.csv"
    options = ["--protection", "limits", "--time-limit", "60", "--workers", "2"]
    code = main(["check", str(folder), "--csv", str(table), "--json", str(report), *options])
    grades = {}
    for row in csv.DictReader(table.open(encoding="utf-8")):
        grades.setdefault(row["student"], {})[row["exercise"]] = row["status"]
    return code, grades, {n["student"]: " | ".join(n["notes"]) for n in json.loads(report.read_text())["notes"]}


EXPECTED = {s: (g, n) for s, (_, g, n) in MISHAPS.items()} | {s: (g, n) for s, (_, _, g, n) in FILES.items()} | {
    "nothing": ({"": "failed"}, "the folder is empty"), "linked": ({"": "failed"}, "leads out of the folder"),
    "flat": (ALL, "does not end in .ipynb"), "essay": ({"": "failed"}, "no notebook was handed in: essay.pdf"),
}  # fmt: skip


@pytest.mark.parametrize("student", EXPECTED)
def test_a_mishap_costs_no_grade(handed_in, student):
    _, grades, notes = handed_in
    wanted, words = EXPECTED[student]
    assert grades[student] == wanted, notes.get(student)
    assert (words or "") in notes.get(student, "")
    if words is None and set(wanted.values()) <= {"correct"}:
        assert student not in notes


def test_every_student_has_a_row_and_no_file_of_the_teachers_is_one(handed_in):
    code, grades, _ = handed_in
    assert code == 1 and set(grades) == set(EXPECTED)


@pytest.mark.parametrize("name", ["pipe", "pipe.ipynb"])
def test_a_pipe_is_no_notebook_and_is_not_read(tmp_path, name):
    """A pipe that nobody writes to would be waited for without end; this one could be read, so that a mistake shows."""
    pipe = tmp_path / name
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('{"nbformat": 4}',), daemon=True)
    writer.start()
    (entry,) = find(tmp_path)
    assert entry.grades and entry.notes == [f"no notebook was handed in: {name}"]
    assert pipe.read_text() == '{"nbformat": 4}'  # nobody has read it before
    writer.join(5)


def test_links_in_a_circle_cost_one_student_not_the_class(tmp_path):
    (tmp_path / "ann.ipynb").symlink_to(tmp_path / "ann.ipynb")
    (tmp_path / "bob.ipynb").write_text("{}")
    assert {work.student for work in find(tmp_path)} == {"ann", "bob"}
