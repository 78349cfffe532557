"""From a student's notebook to what is run and what is judged: the calls of `check`, wherever they were left."""

import ast
import re
from dataclasses import dataclass

from pmeta_course.regression.structure import code_cells, python


@dataclass
class Step:
    """What is done with a notebook: run some code of a cell, or (exercise) judge the `answer` that stands by then."""

    position: int  # of the cell; the first is 1
    code: str = ""
    exercise: str = ""
    note: str = ""  # what the student changed about the cell that asks


def steps(nb, names: list[str]) -> list[Step]:
    """The cells of a notebook as steps, in order. A check is found wherever it stands: below a comment, in a cell with
    other code, with another argument; without one, an exercise is judged at its end (where the next one begins)."""
    found = [step for position, cell in code_cells(nb) for step in _cell_steps(position, cell.source, names)]
    exercise_cells = [position for position, _ in code_cells(nb, "exercise")]
    asked = {s.exercise for s in found} - {""}
    numbers = {name.split(".")[0] for name in asked}
    expected = [name for name in names if name.split(".")[0] in numbers]
    if len(exercise_cells) == len(expected):
        for name, end in zip(expected, [*exercise_cells[1:], 10**9]):
            if name not in asked:
                at = next((n for n, s in enumerate(found) if s.position >= end), len(found))
                note = "its check cell is missing: the answer that stood when the next exercise began was judged"
                found.insert(at, Step(min(end - 1, found[at - 1].position), exercise=name, note=note))
    return found


def _cell_steps(position: int, text: str, names: list[str]) -> list[Step]:
    tree = python(text)
    if tree is None:
        typed = [n for n in map(_exercise, re.findall(r"\bcheck\(\s*[\"']([^\"']+)", text)) if n in names]
        note = f"cell {position}, which checks it, is not valid Python"
        return [Step(position, text), *(Step(position, exercise=n, note=note) for n in typed)]
    calls = [[(n, a) for n, a in _checks(s) if n in names] for s in tree.body]
    if not any(calls):
        return [Step(position, text)]
    found, before, beside = [], [], f"its check is in a cell with other code (cell {position})"
    for statement, asked in zip(tree.body, calls):
        plain = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        if not (asked and plain):
            before.append(ast.unparse(statement))
        for name, argument in asked:
            note = beside if len(tree.body) > 1 or not plain else ""
            if argument not in ("answer", ""):
                note = f"its check names {argument} (cell {position})"
                before.append(f"answer = {argument}")
            found += [Step(position, "\n".join(before))] if before else []
            found.append(Step(position, exercise=name, note=note))
            before = []
    return found + ([Step(position, "\n".join(before))] if before else [])


def _checks(statement: ast.stmt) -> list[tuple[str, str]]:
    """(exercise, source of the answer) of every call of `check` in a statement."""
    found = []
    for node in ast.walk(statement):
        called = getattr(node, "func", None)
        if isinstance(node, ast.Call) and "check" in (getattr(called, "id", ""), getattr(called, "attr", "")):
            given = dict(zip(("name", "answer"), node.args)) | {k.arg: k.value for k in node.keywords}
            name = given.get("name")
            if isinstance(name, ast.Constant):
                found.append((_exercise(str(name.value)), ast.unparse(given["answer"]) if "answer" in given else ""))
    return found


def _exercise(text: str) -> str:
    """The name of an exercise as it was typed: "2.1" is "02.1"."""
    number, _, k = text.strip().partition(".")
    return f"{number.zfill(2)}.{k}"
