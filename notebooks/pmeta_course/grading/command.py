"""examples:
  pmeta check 04_tabular_pmeta.ipynb              one notebook
  pmeta check handed_in --csv grades.csv          a class: handed_in/NAME/*.ipynb or handed_in/NAME.ipynb
  pmeta check handed_in --protection bubblewrap   refuse to run where bubblewrap does not work

The code is untrusted. It runs in a throw-away process, which has neither the right answers nor the verdicts:
the answers are called with the test inputs from outside, and judged there. A cell that does not end, or ends the
process, fails the exercise it belongs to; the others are still graded (up to three restarts a notebook).

exit code: 0 every exercise is correct, 1 some are not, 2 a mistake in the call.
"""

import argparse
import csv
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np

from pmeta_course.exercises import exercises, judge
from pmeta_course.grading.sandbox import COURSE, Ended, Limits, Sandbox, protection
from pmeta_course.grading.sandboxed import decode, encode, raised
from pmeta_course.regression.kernels import GIB
from pmeta_course.regression.structure import code_cells, parameters
from pmeta_lib.files import UserError

CHECK = re.compile(r"""^\s*check\(\s*["']([\w.]+)["']\s*,\s*answer\s*\)\s*;?\s*$""")  # the cell that asks to be graded
RESTARTS = 3


@dataclass
class Grade:
    """One exercise of one student. status: correct | wrong | not yet | failed (it could not be judged)."""

    student: str
    notebook: str
    exercise: str
    status: str
    message: str = ""


@dataclass
class HandedIn:
    """One notebook of one student. material: the folder that is copied beside it."""

    path: Path
    student: str
    material: Path | None
    grades: list[Grade] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what went wrong outside the exercises


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", type=Path, metavar="NOTEBOOK|DIR", help="a filled-in notebook, or a class folder")
    add("--csv", type=Path, metavar="FILE", help="write one row a student and exercise")
    add("--json", type=Path, metavar="FILE", help="write the whole report")
    add("--time-limit", type=float, default=120, metavar="SECONDS", help="for one notebook (default 120)")
    add("--memory", type=float, default=4, metavar="GIB", help="for one notebook (default 4)")
    add(
        "--protection", choices=("auto", "bubblewrap", "limits"), default="auto", help="default: bubblewrap if it works"
    )
    add("--workers", type=int, default=1, help="notebooks at a time (default 1)")


def find(path: Path) -> list[HandedIn]:
    """The notebooks at `path`. Raises UserError if there are none."""
    if path.is_file():
        return [HandedIn(path, path.stem, path.absolute().parent)]
    if not path.is_dir():
        raise UserError(f"{path}: there is no such notebook or folder")
    found = []
    for notebook in sorted(path.rglob("*.ipynb")):
        first, *rest = notebook.relative_to(path).parts
        if not any(part.startswith(".") for part in (first, *rest)):
            found.append(HandedIn(notebook, first if rest else notebook.stem, notebook.parent if rest else None))
    if not found:
        raise UserError(f"{path}: there is no .ipynb file in this folder")
    return found


# ----------------------------------------------------------------------------------- one notebook


def grade(work: HandedIn, limits: Limits, walled: bool) -> HandedIn:
    """Run a notebook's cells in a sandbox (profile smoke) and judge its exercises; whatever happens is noted."""
    from pmeta_course.regression.runner import load

    try:
        nb = load(work.path)
    except Exception as error:  # noqa: BLE001 - nbformat raises many kinds for a broken file
        work.notes.append(f"not a notebook that can be read: {_line(error)}")
        return work
    cells = code_cells(nb)
    checks = {i: m.group(1) for i, cell in cells if (m := CHECK.match(cell.source)) and m.group(1) in exercises()}
    notebooks = {name.split(".")[0] for name in checks.values()}
    asked = [name for name in exercises() if name.split(".")[0] in notebooks]
    if not asked:
        work.notes.append('no exercise was found: none of its cells is `check("…", answer)`')
    grades, skip, errors, endings, data = {}, set(), [], [], COURSE.parents[1] / "data"
    while len(skip) <= RESTARTS and not set(asked) <= grades.keys():
        position, errors = None, []
        try:
            with Sandbox(work.path, work.material, data if data.is_dir() else None, limits, walled) as box:
                error = ""
                for position, cell in cells:
                    if position in skip:
                        continue
                    if position in checks:
                        if checks[position] not in grades:
                            grades[checks[position]] = _judge(box, checks[position], error)
                        error = ""
                        continue
                    said = box.ask(run=cell.source).get("error")
                    if said:
                        error = f"cell {position}: {_line(said)}"
                        errors.append(error)
                    if "parameters" in cell.metadata.get("tags", []) and "PROFILE" in parameters(nb):
                        box.ask(run='PROFILE = "smoke"')
            break
        except Ended as end:
            where = f"cell {position}: {end}" if position else str(end)
            endings.append(where)
            if position is None:  # it never started
                break
            if following := next((name for i, name in checks.items() if i >= position), None):
                grades.setdefault(following, ("failed", where))
            skip.add(position)
    work.notes += endings + errors
    missing = ("failed", endings[-1] if endings else "its check cell is missing")
    for name in asked:
        status, message = grades.get(name, missing)
        work.grades.append(Grade(work.student, work.path.name, name, status, _line(message)))
    return work


def _line(text: object) -> str:
    """A student's text on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:500]


def _judge(box: Sandbox, name: str, error: str) -> tuple[str, str]:
    """Judge the answer that stands in the sandbox. error: what a cell since the last exercise raised."""
    reply = box.ask(answer=True)
    if reply.get("missing"):
        return "failed", f"there is no `answer`; {error or 'the cell that defines it is gone'}"
    answer = _decoded(box, reply.get("value"), lambda _, arguments: _call(box, arguments))
    return judge(name, answer)


def _call(box: Sandbox, arguments: tuple) -> object:
    """Call the student's function with `arguments`; arrays that it changes are changed here, too."""
    functions = []
    reply = box.ask(call=encode(list(arguments), functions))
    while "back" in reply:  # it calls a function that it was given
        position, given = reply["back"]
        try:
            given = _decoded(box, given, None)
            answer = {"value": encode(functions[position](*given), [])}
        except Exception as error:  # noqa: BLE001 - goes to the student's code, which called it wrongly
            answer = {"raised": [type(error).__name__, str(error)[:500]]}
        reply = box.ask(**answer)
    if "raised" in reply:
        raise raised(*reply["raised"][:2])
    changed = _decoded(box, reply.get("arguments"), None)
    for mine, theirs in zip(arguments, changed if isinstance(changed, list) else []):
        if isinstance(mine, np.ndarray) and np.shape(theirs) == mine.shape:
            mine[...] = theirs
    return _decoded(box, reply.get("value"), None)


def _decoded(box: Sandbox, message: object, call) -> object:
    """What the sandbox sent, or its end if that is no value."""
    try:
        return decode(message, call)
    except (TypeError, ValueError, KeyError, IndexError, RecursionError, OverflowError, MemoryError) as error:
        box.end("its process sent no value")
        raise Ended("its process sent no value") from error


# ---------------------------------------------------------------------------------------- reports


def table(works: list[HandedIn]) -> str:
    """What a teacher reads in the terminal: one line a notebook, below it what is not correct."""
    lines = []
    for work in works:
        right = sum(g.status == "correct" for g in work.grades)
        lines.append(f"{work.student}  {work.path.name}  {right}/{len(work.grades)} correct")
        lines += [f"    {g.exercise} {g.status}: {g.message}" for g in work.grades if g.status != "correct"]
        lines += [f"    note: {note}" for note in work.notes]
    count = Counter(g.status for work in works for g in work.grades)
    return "\n".join([*lines, ", ".join(f"{n} {status}" for status, n in sorted(count.items())) or "nothing to grade"])


def main(args: argparse.Namespace) -> int:
    for option in ("time_limit", "memory", "workers"):
        if not getattr(args, option) > 0:
            raise UserError(f"--{option.replace('_', '-')} {getattr(args, option)}: it must be more than 0")
    for target in (args.csv, args.json):
        if target and not target.absolute().parent.is_dir():
            raise UserError(f"{target}: its folder does not exist")
    works = find(args.path)
    walled, words = protection(args.protection)
    print(f"protection: {words}", flush=True)
    limits = Limits(args.time_limit, int(args.memory * GIB))
    pool = ThreadPoolExecutor(args.workers)
    try:
        works = list(pool.map(partial(grade, limits=limits, walled=walled), works))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C: those that have not begun
    print(table(works))
    grades = [g for work in works for g in work.grades]
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Grade)] + ["protection"])
            writer.writeheader()
            writer.writerows(asdict(g) | {"protection": words.split(":")[0]} for g in grades)
    if args.json:
        notes = [{"student": w.student, "notebook": w.path.name, "notes": w.notes} for w in works if w.notes]
        report = {"schema": 1, "protection": words, "limits": asdict(limits), "notes": notes}
        report["grades"] = [asdict(g) for g in grades]
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sound = all(w.grades for w in works) and all(g.status == "correct" for g in grades)
    return 0 if sound else 1
