"""The student edition: it differs from the source in its solutions only, gives none away, and runs unsolved."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from pmeta_course.exercises import check
from pmeta_course.grading.student import leaks, student_edition, telling
from pmeta_course.regression.runner import load

from pmeta_lib.cli import main

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def tagged(nb, tag):
    return [c for c in nb.cells if tag in c.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """The folder that `pmeta student` writes."""
    out = tmp_path_factory.mktemp("class") / "edition"
    assert main(["student", str(out)]) == 0
    return out


def test_every_notebook_of_the_course_is_there(edition):
    assert [p.name for p in sorted((edition / "notebooks").iterdir())] == [p.name for p in NOTEBOOKS]
    assert (edition / "data" / "results" / "tabular" / "headline.parquet").exists()


@pytest.mark.parametrize("name", [p.name for p in NOTEBOOKS])
def test_it_differs_in_the_solutions_and_their_outputs_only(edition, name):
    source, student = load(FOLDER / name), load(edition / "notebooks" / name)
    assert len(tagged(source, "solution")) == len(tagged(student, "exercise")) >= 3
    kept = [c for c in source.cells if c not in tagged(source, "solution")]
    assert [c.id for c in kept] == [c.id for c in student.cells]
    for before, mine, theirs in zip([None, *kept], kept, student.cells):
        assert (mine.cell_type, mine.source, mine.metadata) == (theirs.cell_type, theirs.source, theirs.metadata)
        if mine.cell_type == "code" and before is not None and before in tagged(source, "exercise"):
            assert mine.source.startswith("check(")
            assert (theirs.outputs, theirs.execution_count) == ([], None)
        elif mine.cell_type == "code":
            assert mine.outputs == theirs.outputs
    assert source.metadata.kernelspec == student.metadata.kernelspec
    assert set(student.metadata.pmeta) <= {"edition", "profile", "parameters", "versions"}


@pytest.mark.parametrize("name", [p.name for p in NOTEBOOKS])
def test_no_line_of_a_solution_is_left_anywhere_in_the_file(edition, name):
    """By a plain search of the file, unlike the check that `pmeta student` makes itself."""
    text = re.sub(r"\s|\\n", "", json.dumps(json.loads((edition / "notebooks" / name).read_text()), ensure_ascii=False))
    found = 0
    for cell in tagged(load(FOLDER / name), "solution"):
        for line in cell.source.splitlines():
            plain = re.sub(r"\s", "", line.split("  #")[0])
            if len(plain) > 12 and not plain.endswith(":"):
                found += 1
                assert json.dumps(plain, ensure_ascii=False)[1:-1] not in text, line
    assert found >= 1
    assert "correct." not in text or name.startswith("00")


@pytest.mark.parametrize("place", ["text", "output", "metadata", "output metadata", "comment"])
def test_a_solution_that_is_shown_elsewhere_is_refused(tmp_path, place, capsys):
    nb = load(FOLDER / "03_convergence_theory.ipynb")
    line = next(x for c in tagged(nb, "solution") for x in c.source.splitlines() if telling(x)).strip()
    if place == "text":
        nb.cells[0].source += f"\nHere it is: {line.replace(' ', '  ')}"
    elif place == "comment":
        nb.cells[3].source += f"\n# {line}"
    elif place == "metadata":
        nb.metadata["note"] = line
    else:
        output = nbformat.v4.new_output("display_data", data={"text/plain": "x" if "meta" in place else line})
        output.metadata = {"note": line} if "meta" in place else {}
        nb.cells[3].outputs.append(output)
    assert len(leaks(nb, student_edition(nb))) == 1
    (tmp_path / "source").mkdir()
    nbformat.write(nb, tmp_path / "source" / "03_convergence_theory.ipynb")
    assert main(["student", str(tmp_path / "out"), "--notebooks", str(tmp_path / "source")]) == 2
    assert "given away" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [p.name for p in NOTEBOOKS])
def test_filled_in_with_the_solutions_every_check_passes(edition, name, capsys):
    import numpy as np

    student, solutions = load(edition / "notebooks" / name), tagged(load(FOLDER / name), "solution")
    for cell, solution in zip(tagged(student, "exercise"), solutions, strict=True):
        position = student.cells.index(cell)
        (exercise,) = re.findall(r'^check\("([\d.]+)", answer\);$', student.cells[position + 1].source)
        space = {"np": np}
        exec(solution.source, space)
        assert check(exercise, space["answer"]), capsys.readouterr().out


RUN = """
import json, os, re, sys
import matplotlib; matplotlib.use("agg")
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
shell, said = InteractiveShell.instance(), {}
os.chdir(sys.argv[1])
for name in sorted(os.listdir()):
    shell.reset(new_session=True)
    said[name] = []
    for cell in json.load(open(name))["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        with capture_output() as captured:
            result = shell.run_cell(source)
        shell.user_ns.update({"PROFILE": "smoke"} if "parameters" in cell["metadata"].get("tags", []) else {})
        error = result.error_before_exec or result.error_in_exec
        if error:
            said[name].append(f"{cell['id']}: {type(error).__name__}: {error}")
        elif re.match(r'check\\("[0-9.]+", answer\\)', source):
            said[name].append(captured.stdout)
json.dump(said, sys.stdout)
"""


@pytest.mark.slow
def test_it_runs_unsolved_from_top_to_bottom(edition, tmp_path):
    """All notebooks in the profile smoke, in one process, so that the imports are paid once."""
    shutil.copytree(edition, tmp_path / "mine")
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "mine" / "notebooks"],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said.keys() == {p.name for p in NOTEBOOKS}
    wrong = {name: [x for x in lines if "not yet" not in x] for name, lines in said.items()}
    assert not {name: lines for name, lines in wrong.items() if lines}
    for name, lines in said.items():
        assert len(lines) == len(tagged(load(FOLDER / name), "exercise"))


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "work.ipynb").write_text("mine")
    assert main(["student", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["work.ipynb"]


def test_the_source_is_not_changed():
    source = load(NOTEBOOKS[0])
    before = copy.deepcopy(source)
    student_edition(source)
    assert source == before
