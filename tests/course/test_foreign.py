"""Notebooks that others wrote: old formats, missing and double ids, odd parameters, stray files, Output widgets."""

import base64
import copy
import io
import json
import math

import nbformat
import pytest
from output_widgets import write as write_widgets
from PIL import Image
from pmeta_course.regression import literals, structure
from pmeta_course.regression.runner import load

from pmeta_lib.cli import main

SHOW = "print(N)\nN * 2"


def plain(*sources, head="N = 3"):
    first = nbformat.v4.new_code_cell(head, metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, sources)])


def without_ids(nb, minor=4):
    data = json.loads(nbformat.writes(nb)) | {"nbformat_minor": minor}
    for cell in data["cells"]:
        cell.pop("id", None)
    return json.dumps(data)


def one_id(nb):
    data = json.loads(nbformat.writes(nb))
    for cell in data["cells"]:
        cell["id"] = "same"
    return json.dumps(data)


OLD = {
    "minor_4": without_ids,
    "minor_5_no_ids": lambda nb: without_ids(nb, 5),
    "double_ids": one_id,
    "format_3": lambda nb: nbformat.writes(nbformat.convert(copy.deepcopy(nb), 3), version=3),
    "byte_order_mark": lambda nb: "\ufeff" + without_ids(nb),
    "language_capital": lambda nb: without_ids(nb).replace('"metadata": {}', '"metadata": {"kernelspec": {"name": "x", '
                                                           '"display_name": "x", "language": "Python"}}', 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def old(tools, tmp_path_factory):
    """Notebooks in old formats, run and stored; one whose last cell fails, run."""
    base = tmp_path_factory.mktemp("old")
    (base / "nb").mkdir()
    for name, text in OLD.items():
        (base / "nb" / f"{name}.ipynb").write_text(text(plain(SHOW, "'third'")), encoding="utf-8")
    stored = tools.course("--notebooks", base / "nb", "--out", base / "out", "--store")
    (base / "bad").mkdir()
    for name in ("minor_4", "double_ids"):
        (base / "bad" / f"{name}.ipynb").write_text(OLD[name](plain(SHOW, "1 / (N - 3)")))
    return base, stored, tools.course("--notebooks", base / "bad", "--out", base / "out_bad")


@pytest.mark.parametrize("name", OLD)
def test_store_keeps_every_output_of_an_old_format(old, name):
    base, stored, _ = old
    assert stored.code == 0, stored.out
    nb = nbformat.read(base / "nb" / f"{name}.ipynb", as_version=4)
    texts = [[structure.texts(o) for o in c.outputs] for c in nb.cells if c.cell_type == "code"]
    assert texts == [[], ["3\n", "6"], ["'third'"]]
    assert len({c.id for c in nb.cells}) == len(nb.cells)


def test_a_failure_names_its_cell_also_without_ids(old):
    for name in ("minor_4", "double_ids"):
        assert old[2].notebooks[name]["cell"] == 3
        assert old[2].notebooks[name]["message"].endswith("in cell 3 (In [3])")


def test_reading_twice_gives_the_same_ids(tmp_path):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text(plain(SHOW)), encoding="utf-8")
        assert [c.id for c in load(tmp_path / name).cells] == [c.id for c in load(tmp_path / name).cells]


def test_store_refuses_to_write_less_than_what_ran():
    executed = plain("1")
    executed.cells[1].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1"})]
    assert structure.lost(plain("1"), copy.deepcopy(executed)) == [
        "it would hold 0 of the 1 outputs and forms of outputs that ran; nothing was changed"
    ]
    assert not structure.lost(executed, copy.deepcopy(executed))
    fewer = copy.deepcopy(executed)
    executed.cells[1].outputs[0].data["text/html"] = "<b>1</b>"
    assert "1 of the 2" in structure.lost(fewer, executed)[0]


def red_square():
    image, file = Image.new("RGB", (20, 20), "white"), io.BytesIO()
    image.paste("red", (5, 5, 15, 15))
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_that_cannot_be_decoded_fails_its_notebook_only(tools, tmp_path):
    for name, data in (("good", red_square()), ("cut", red_square()[:60]), ("none", "iVBORw0KGgo=")):
        (tmp_path / "nb").mkdir(exist_ok=True)
        nbformat.write(plain("N", f"display({{'image/png': '{data}'}}, raw=True)"), tmp_path / "nb" / f"{name}.ipynb")
    run = tools.course("--notebooks", tmp_path / "nb", "--out", tmp_path / "out")
    assert run.code == 1 and run.notebooks["good"]["status"] == "passed"
    for name in ("cut", "none"):
        assert "figure 1 (cell 3) cannot be decoded" in run.notebooks[name]["message"]


def test_store_keeps_a_widget_unless_a_picture_stands_for_it(tools, tmp_path):
    label = "import ipywidgets\nlabel = ipywidgets.Label(str(N))\nlabel"
    pictured = f"display({{'image/png': '{red_square()}', **label._repr_mimebundle_()}}, raw=True)"
    (tmp_path / "nb").mkdir()
    nbformat.write(plain(label, pictured), tmp_path / "nb" / "live.ipynb")
    nbformat.write(plain(label + ";", "print(N)", pictured), tmp_path / "nb" / "still.ipynb")
    run = tools.course("--notebooks", tmp_path / "nb", "--out", tmp_path / "out", "--store")
    assert run.code == 0, run.out
    live, still = (nbformat.read(tmp_path / "nb" / f"{n}.ipynb", as_version=4) for n in ("live", "still"))
    view = live.cells[1].outputs[0].data[structure.WIDGET_VIEW]
    state = live.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert state[view["model_id"]]["state"]["value"] == "3"
    for output in (live.cells[2].outputs[0], still.cells[3].outputs[0]):
        assert "image/png" in output.data and structure.WIDGET_VIEW not in output.data
    assert "widgets" not in still.metadata


# ------------------------------------------------------------------------------------- parameters

VALUES = [
    (5, 6), (), (1,), (1, (2, [3, {4}])), {1, 2}, set(), b"a\x00b", 1 + 2j, complex("inf"), math.inf,
    -math.inf, math.nan, [1, math.nan], {(1, 2): {"a": -math.inf}}, {1: True, "1": None}, True, None, 2**80, "it's",
    'say "x"', 1.0,
    {"literal": 3},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_literal_survives_as_source_and_as_json(value):
    assert literals.same(literals.evaluate(literals.source(value)), value)
    assert literals.same(literals.evaluate(repr(value)), value)
    text = json.dumps(literals.to_json(value), allow_nan=False)
    assert literals.same(literals.from_json(json.loads(text)), value)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1.0), (1, True), ((1, 2), [1, 2]), ("1", 1), ({1}, [1]), (b"a", "a"), (0.0, -0.0), (math.inf, math.nan)],
)
def test_literals_of_two_types_are_two_values(a, b):
    assert not literals.same(a, b)


def test_sets_and_dicts_are_the_same_in_any_order():
    assert literals.same({"a": {3, 1, 2}, "b": 1}, {"b": 1, "a": {2, 3, 1}})


@pytest.mark.parametrize("text", ["f(1)", "x", "[1, y]", "1 +", "{[1]}", "lambda: 1", "(" * 500])
def test_what_is_no_literal_is_refused(text):
    with pytest.raises(ValueError):
        literals.evaluate(text)


HEAD = """T = (1, (2, 3))
S = {1, 2}
B = b"ab"
C = 1 + 2j
F = 0.5
L = [1, float("nan")]
D: dict = {(1, 2): {"a": 1.5}}
E = set()"""
NAMES = "T, S, B, C, F, L, D, E"


@pytest.fixture(scope="module")
def typed(tools, tmp_path_factory):
    base = tmp_path_factory.mktemp("typed")
    (base / "nb").mkdir()
    nbformat.write(plain(f"print({NAMES})", head=HEAD), base / "nb" / "typed.ipynb")
    call = ("--notebooks", base / "nb", "--out", base / "out")
    blessed = tools.course(*call, "--bless", "--reason", "first")
    compared = tools.course(*call, "--compare")
    given = {
        "T": "(5, (6,))",
        "S": "{3}",
        "B": "b'z'",
        "C": "2j",
        "F": "inf",
        "L": "[-inf, nan]",
        "D": "{}",
        "E": "{4}",
    }
    changed = tools.course(*call, *(x for n, v in given.items() for x in ("-p", f"{n}={v}")))
    printed = nbformat.read(base / "out" / "typed.ipynb", as_version=4).cells[-1].outputs[0].text
    (base / "nb" / "typed.ipynb").unlink()
    nbformat.write(
        plain(f"print({NAMES})", head=HEAD.replace("(1, (2, 3))", "[1, (2, 3)]")), base / "nb" / "typed.ipynb"
    )
    return blessed, compared, changed, printed, tools.course(*call, "--compare"), base


def test_every_literal_is_a_parameter_that_blesses_and_compares(typed):
    blessed, compared, changed, printed, other, base = typed
    assert blessed.code == 0 and compared.code == 0 and changed.code == 0, compared.out
    assert printed == "(5, (6,)) {3} b'z' 2j inf [-inf, nan] {} {4}\n"
    assert other.code == 1 and "parameter T" in other.out  # a list is no tuple
    assert "Infinity" not in (base / "out" / "summary.json").read_text()


@pytest.mark.parametrize("given", ["E=[1]", "S={}", "B=text", "F=one", "C=(1,)"])
def test_another_type_is_one_line_before_anything_runs(typed, given, capsys):
    base = typed[-1]
    assert main(["course", "--notebooks", str(base / "nb"), "--out", str(base / "no"), "-p", given]) == 2
    assert "declares it as" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not (base / "no").exists()


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("df.query('x > @N')", True), ("df.eval(f'x * {N}')", True), ("'{N}'.format(**globals())", True),
        ("out = !echo $N", True), ("!echo {N}", True), ("%run -i x.py $N", True), ("%%bash\necho $N", True),
        ("sql('select :N')", True), ("globals()['N']", True), ("# N", False),
        ("print('no N here')", False), ("M = 1", False),
    ],
)  # fmt: skip
def test_a_parameter_is_read_where_texts_and_magics_read_it(cell, read):
    problems = structure.source_problems(plain("df = sql = print\n" + cell if "%%" not in cell else cell), course=False)
    assert bool(problems) is not read, problems
    nb = plain(cell)
    nb.metadata["pmeta"] = {"read_elsewhere": ["N"]}
    assert not structure.source_problems(nb, course=False)


# ------------------------------------------------------------------------------------ whole folders


def test_stray_files_are_skipped_with_a_line_and_the_rest_runs(tools, tmp_path):
    folder = tmp_path / "nb"
    (folder / "week1").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    for path in ("good", "week1/deep", ".ipynb_checkpoints/old"):
        nbformat.write(plain(SHOW), folder / f"{path}.ipynb")
    (folder / "empty.ipynb").write_text("")
    (folder / "._good.ipynb").write_bytes(b"\x00\x05\x16\x07")
    (folder / "broken.ipynb").write_text("{")
    (folder / "newer.ipynb").write_text(without_ids(plain(SHOW), 99).replace('"source"', '"text"'))
    run = tools.course("--notebooks", folder, "--out", tmp_path / "out")
    assert run.code == 0 and list(run.notebooks) == ["good"]
    assert "skipped empty.ipynb: it is not a notebook that can be read (the file is empty)" in run.out
    assert "skipped newer.ipynb: it is not a notebook that can be read (cell 1 has no source)" in run.out
    assert "skipped broken.ipynb" in run.out and "._good" not in run.out
    assert "not run: 1 notebook in folders below (week1)" in run.out
    assert tools.course("--notebooks", folder, "--out", tmp_path / "out", "--fail-on-skipped").code == 1
    named = tools.course("--notebooks", folder, "--out", tmp_path / "out", "empty")
    assert named.code == 2 and "the file is empty" in named.err


def test_cells_with_output_widgets_do_not_hang(tools, tmp_path):
    write_widgets(tmp_path / "nb", 20)
    run = tools.course(
        "--notebooks", tmp_path / "nb", "--out", tmp_path / "out", "--workers", "2", "--time-limit", "120"
    )
    assert run.code == 0, run.out
