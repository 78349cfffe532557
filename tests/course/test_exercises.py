"""The exercises' checkers: right answers pass, planted mistakes get their own diagnosis, and no answer a traceback."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import RIGHT, WRONG
from answers_edges import EDGES, FORMS
from pmeta_course.exercises import check, exercises

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test_every_exercise_is_covered():
    assert RIGHT.keys() == exercises().keys()
    for name in RIGHT:
        assert sum(name == planted for planted, _, _ in WRONG) >= 3, name
        assert name in {edge for edge, _, _ in EDGES}, name


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert check(name, RIGHT[name])
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "wrong", "diagnosis"), WRONG)
def test_a_planted_mistake_is_named(name, wrong, diagnosis, capsys):
    assert not check(name, wrong)
    assert diagnosis in capsys.readouterr().out


@pytest.mark.parametrize("name", RIGHT)
def test_unsolved_is_not_yet(name, capsys):
    def unsolved(*_):
        raise NotImplementedError

    for answer in (..., None, unsolved) if callable(RIGHT[name]) else (..., None):
        assert not check(name, answer)
        assert "not yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", RIGHT)
def test_nonsense_is_refused_without_a_traceback(name, capsys):
    nonsense = [lambda *_: "text", lambda *_: np.nan, lambda *_: np.zeros((7, 7)), 3.25, "zebra", [[1], [1, 2]]]
    for answer in nonsense:
        assert not check(name, answer)
        assert "✘" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*(divide|invalid value|empty slice).*:RuntimeWarning")
@pytest.mark.parametrize(("name", "wrong", "diagnosis"), EDGES)
def test_an_answer_that_fails_at_one_edge_is_refused(name, wrong, diagnosis, capsys):
    assert not check(name, wrong)
    assert diagnosis in capsys.readouterr().out


@pytest.mark.parametrize(("name", "right"), FORMS)
def test_a_right_answer_passes_in_any_form(name, right):
    assert check(name, right)


@pytest.mark.filterwarnings("ignore:.*(divide|invalid value).*:RuntimeWarning")
@pytest.mark.parametrize("name", [n for n, answer in RIGHT.items() if callable(answer)])
def test_no_argument_may_be_ignored(name):
    """Put as a constant, whichever, an argument makes a right answer wrong."""
    probes = []
    check(name, lambda *given: probes.append(given) or RIGHT[name](*given))
    for k in set(range(len(probes[0]))) - ({1} if name == "14.3" else set()):  # there, not to use it is the point
        for constant in [0, *(probe[k] for probe in probes)]:
            assert not check(name, lambda *given, k=k, c=constant: RIGHT[name](*given[:k], c, *given[k + 1 :])), k


def interrupted(gamma):
    raise KeyboardInterrupt  # as the kernel's signal does, which a shell's background processes ignore


def test_who_interrupts_a_check_is_heard():
    with pytest.raises(KeyboardInterrupt):
        check("01.3", interrupted)


def changed(result, change):
    return tuple(change(x) for x in result) if isinstance(result, tuple) else change(result)


FORMATS = {
    "four decimals": lambda x: np.round(x, 4),
    "four digits": lambda x: np.vectorize(lambda v: float(f"{v:.4g}"))(x),
    "float64 or 0-d array": lambda x: np.asarray(x, float)[()],
    "torch": lambda x: torch.tensor(np.asarray(x, float), requires_grad=True),
    "lists": lambda x: np.asarray(x).tolist(),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", [n for n, answer in RIGHT.items() if callable(answer) and n != "03.2"])
def test_a_right_function_passes_rounded_and_in_any_type(name, form):
    assert check(name, lambda *given: changed(RIGHT[name](*given), FORMATS[form]))


def test_a_diagnosis_never_contains_the_answer(capsys):
    """A single number printed with the diagnosis of a single number would give it away."""
    check("01.2", [0.1, 0.2])
    text = capsys.readouterr().out
    assert "90" not in text and "0.74" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_solves_and_checks_each_of_its_exercises(path):
    cells = json.loads(path.read_text())["cells"]
    code = [(c["metadata"].get("tags", []), "".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    asked = []
    for position, (_, source) in enumerate(code):
        for name in re.findall(r'check\("(.*?)"', source):
            if name in asked:  # shown once more, with a wrong answer
                continue
            asked.append(name)
            (blank_tags, blank), (solution_tags, solution) = code[position - 2 : position]
            assert (blank_tags, solution_tags) == (["exercise"], ["solution"]), name
            space, unsolved = {"np": np}, {}
            ast.parse(blank)
            exec(blank, unsolved)
            exec(solution, space)
            assert check(name, space["answer"])
            assert not check(name, unsolved["answer"])
            assert f"Exercise {name}" in "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert asked == sorted(n for n in exercises() if n.startswith(path.name[:2])) and len(asked) >= 3


def test_the_notebooks_are_numbered_from_00_to_14():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n:02}" for n in range(15)]
