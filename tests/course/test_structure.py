"""What a notebook must look like; no kernel needed, but for storing one."""

import io

import matplotlib.figure
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pmeta_course.regression import structure
from pmeta_course.regression.command import course_folder
from pmeta_course.regression.runner import load

from pmeta_lib.files import UserError

HEAD = "PROFILE = 'quick'\nSEED = 0"


def notebook(*sources, head=HEAD):
    cells = [new_code_cell(head, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    return new_notebook(cells=cells)


@pytest.mark.parametrize(
    ("sources", "head", "problem"),
    [
        (["print(PROFILE, SEED)"], "SEED = 0", "does not declare PROFILE"),
        (["print(PROFILE)"], "PROFILE = 'quick'\nSEED = 0", "SEED is never read"),
        (["print(PROFILE)", "SEED = 1\nprint(SEED)"], "PROFILE = 'quick'\nSEED = 0", "cell 3 overwrites"),
        (["print(PROFILE, SEED", ""], "PROFILE = 'quick'\nSEED = 0", "cell 2 is not valid Python"),
        (["print(2)"], "PROFILE = 'quick'\nSEED = 0\nSTEPS = {'quick': 3}[PROFILE]", "PROFILE is never read"),
        (["print(PROFILE)", "def f(SEED):\n    return SEED"], HEAD, "SEED is never read"),
        (["print(PROFILE, SEED)", "if PROFILE == 'quick':\n    SEED = 1"], HEAD, "cell 3 overwrites"),
        (["print(PROFILE, SEED)", "for SEED in range(3):\n    pass"], HEAD, "cell 3 overwrites"),
        (["print(PROFILE, SEED)", "try:\n    with open('x') as SEED: pass\nfinally: pass"], HEAD, "cell 3 overwrites"),
        (["print(A, B)"], HEAD + "\nA, B = 1, 2", "hides A, B"),
    ],
)
def test_source_problems(sources, head, problem):
    assert any(problem in p for p in structure.source_problems(notebook(*sources, head=head), course=True))


def test_a_sound_source_has_no_problem():
    nb = notebook("print(f'{PROFILE}')\nSEED = SEED + 1", "%matplotlib inline\nx = SEED")
    assert structure.source_problems(nb, course=True) == []
    nb = notebook("%%time\nprint(PROFILE)", "if SEED is None:\n    SEED = 1", "class A:\n    SEED = SEED")
    assert structure.source_problems(nb, course=True) == []


def test_the_parameters_cell_comes_first():
    nb = notebook("print(PROFILE, SEED)")
    nb.cells.reverse()
    assert "not the first code cell" in structure.source_problems(nb, course=True)[0]


def test_a_setup_cell_may_come_before_the_parameters_and_nowhere_else():
    nb = notebook("print(PROFILE, SEED)")
    setup = new_code_cell("import sys", metadata={"tags": ["setup"]})
    nb.cells.insert(1, setup)
    assert structure.source_problems(nb, course=True) == []
    setup.source = "SEED = 1"
    nb.cells.append(nb.cells.pop(1))
    assert "overwrites the parameter SEED" in structure.source_problems(nb, course=True)[0]


def test_declared_parameters_and_their_types():
    nb = notebook(head="A = 1\nB: float | None = None\nC = 'x'\nD: int = 2\nE = None\nF = [1]")
    found = structure.parameters(nb)
    assert found == {
        "A": (1, {"int"}), "B": (None, {"float", "None"}), "C": ("x", {"str"}),
        "D": (2, {"int"}), "E": (None, set()), "F": ([1], {"list"}),
    }  # fmt: skip
    parse = structure.parse_parameter
    assert parse("3", "A", {"int"}, "n") == 3
    assert parse("3", "B", {"float", "None"}, "n") == 3.0 and parse("None", "B", {"float", "None"}, "n") is None
    assert parse("07", "C", {"str"}, "n") == "07"
    for text, types in (("x", {"int"}), ("1.5", {"int"}), ("True", {"int"}), ("[1]", {"float"})):
        with pytest.raises(UserError, match="declares it as"):
            parse(text, "A", types, "n")


def executed(*outputs, tags=()):
    nb = notebook("SEED")
    for i, cell in enumerate(nb.cells, 1):
        cell.execution_count = i
    nb.cells[1].outputs, nb.cells[1].metadata.tags = list(outputs), list(tags)
    return nb


@pytest.mark.parametrize(
    ("output", "problem", "tag"),
    [
        (new_output("stream", name="stderr", text="a.py:1: FutureWarning: old\n"), "shows a warning", "shows-warning"),
        (new_output("stream", name="stderr", text="WARN: the env is old\n"), "shows a warning", "shows-warning"),
        (new_output("stream", name="stdout", text="/x/a.py:1: UserWarning: old\n"), "shows a warning", "shows-warning"),
        (new_output("error", ename="ValueError", evalue="x", traceback=[]), "shows an error", "raises-exception"),
    ],
)
def test_output_problems(output, problem, tag):
    assert problem in structure.output_problems(executed(output))[0]
    assert structure.output_problems(executed(output, tags=[tag])) == []


def test_text_about_warnings_and_progress_bars_are_no_warning():
    told = new_output("stream", name="stdout", text="A Warning: lambda is large.\n")
    bar = new_output("stream", name="stderr", text="100%|████| 3/3 [00:01<00:00]\n")
    assert structure.output_problems(executed(told, bar)) == []


def test_cells_out_of_order_are_seen():
    nb = executed()
    nb.cells[0].execution_count, nb.cells[1].execution_count = 2, 1
    assert "not executed in order" in structure.output_problems(nb)[0]


def png(draw) -> bytes:
    figure = matplotlib.figure.Figure(figsize=(4, 3))
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return buffer.getvalue()


def titled(figure):
    ax = figure.subplots()
    ax.set(title="a title", xlabel="step", ylabel="return")
    ax.grid(True)
    return ax


def test_blank_figures():
    x = np.linspace(0.1, 3, 50)
    for draw in (lambda f: None, titled, lambda f: titled(f).plot(x, np.nan * x)):
        assert structure.ink(png(draw))["blank"]
    for draw in (
        lambda f: titled(f).plot(x, 1 / x, "k"),
        lambda f: titled(f).plot(x, x),
        lambda f: titled(f).imshow(np.eye(5), cmap="gray"),
        lambda f: f.subplots(2)[1].scatter(x, x),
    ):
        assert not structure.ink(png(draw))["blank"]


def test_a_figure_against_the_expected_one():
    def look(n):
        return structure.ink(png(lambda f: [ax.plot([0, 1], [i, 1]) for i, ax in enumerate(f.subplots(2)) if i < n]))

    full, half = look(2) | {"cell": 1}, look(1) | {"cell": 1}
    assert structure.figure_problems([full], [full]) == []
    assert "lost its lower half" in structure.figure_problems([half], [full])[0]
    assert "0 figures, expected 1" in structure.figure_problems([], [full])[0]


def test_absolute_paths():
    for text in ("open('/home/me/x.csv')", "p = '/tmp/abc'", "r'C:\\Users\\me'"):
        assert structure.absolute_paths(notebook(text)), text
    for text in ("x = '../data/a.csv'", "see https://a.org/home/x", "a/home/b", "1 /tmp"):
        assert structure.absolute_paths(new_notebook(cells=[new_markdown_cell(text)])) == [], text


def test_storing_and_what_is_out_of_step(tools, tmp_path):
    path = tools.write(
        tmp_path / "nb" / "a.ipynb",
        "import matplotlib.pyplot as plt\nfrom pmeta_course import record\nrecord('two', 2.0)",
        "plt.plot([SEED, 1]);",
    )
    expected = tmp_path / "nb" / "expected"
    call = ("--notebooks", path.parent, "--out", tmp_path / "out")
    done = tools.course(*call, "--bless", "--reason", "first", "--store")
    assert done.code == 0, done.out
    stored = load(path)
    assert [c.execution_count for c in stored.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    assert len(structure.figures(stored)) == 1
    assert "papermill" not in str(stored.metadata) + str([c.metadata for c in stored.cells])
    assert str(tmp_path) not in nbformat.writes(stored)
    assert structure.stored_problems(path, expected, course=False) == []

    def broken(change):
        nb = load(path)
        change(nb)
        copy = path.with_name("b.ipynb")
        nbformat.write(nb, copy)
        (expected / "quick" / "b.json").write_text((expected / "quick" / "a.json").read_text())
        return " ".join(structure.stored_problems(copy, expected, course=False))

    assert broken(lambda nb: None) == ""
    assert broken(lambda nb: nb.cells[0].update(source="# other words")) == ""
    assert "from other code" in broken(lambda nb: nb.cells[4].update(source="plt.plot([SEED, 2]);"))
    assert "outputs were changed" in broken(lambda nb: nb.cells[4].update(outputs=[]))
    assert "out of step" in broken(lambda nb: nb.metadata.pmeta["values"]["two"].update(value=2.1))
    assert "not executed in order" in broken(lambda nb: nb.cells[4].update(execution_count=9))
    assert "limit is 1 MB" in broken(lambda nb: nb.cells[0].update(source="x" * 1_100_000))
    assert "never stored" in " ".join(
        structure.stored_problems(tools.write(path.with_name("c.ipynb"), "1"), expected, course=True)
    )
    compared = tools.course(*call, "--compare", "--only", "a")
    assert compared.code == 0 and 'as stored"' in (tmp_path / "out" / "report.html").read_text()


def test_the_notebooks_of_the_course_are_sound():
    folder = course_folder()
    found = {p.stem: structure.source_problems(load(p), course=True) for p in sorted(folder.glob("*.ipynb"))}
    assert found and not {n: p for n, p in found.items() if p}
