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
import contextlib
import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pmeta_course.exercises import exercises, judge
from pmeta_course.grading.sandbox import COURSE, Ended, Limits, Sandbox, protection
from pmeta_course.grading.sandboxed import decode, encode, raised
from pmeta_course.grading.steps import steps
from pmeta_course.regression.kernels import GIB
from pmeta_lib.files import UserError, write_report, writing

PROFILE = re.compile(r"^PROFILE\s*(:[^=]*)?=", re.MULTILINE)
BESIDES = (".csv", ".md", ".json", ".toml", ".yml", ".yaml", ".xlsx", ".ods", ".log")  # a teacher's own files
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
    """What was handed in at `path`: in a class folder at least one entry for each student, whatever lies there.

    A folder or file that holds no notebook becomes an entry with a note. Raises UserError if there is nothing.
    """
    if path.is_file():
        return [HandedIn(path, path.stem, path.absolute().parent)]
    if not path.is_dir():
        raise UserError(f"{path}: there is no such notebook or folder")
    found: list[HandedIn] = []
    for entry in _visible(path.iterdir(), path):
        theirs = entry.is_dir() and not _leads_out(entry, path)  # the folder of one student
        files = [p for p in _visible(entry.rglob("*"), entry) if not p.is_dir()] if theirs else [entry]
        student, folder = (entry.name, entry) if theirs else (_student(entry), path)
        works = [_file(file, folder, student, file.parent if theirs else None) for file in files]
        if not any(works) and (theirs or entry.suffix.lower() not in BESIDES):
            there = ", ".join(p.name for p in files[:3]) or "the folder is empty"
            works = [_nothing(entry, student, f"no notebook was handed in: {there}")]
        found += filter(None, works)
    if not found:
        raise UserError(f"{path}: there is no .ipynb file in this folder")
    return found


def _visible(paths: Iterable[Path], folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what is hidden and what Python put there."""
    hidden = (".", "__")
    return [p for p in sorted(paths) if not any(part.startswith(hidden) for part in p.relative_to(folder).parts)]


def _file(path: Path, folder: Path, student: str, material: Path | None) -> HandedIn | None:
    """A file of `folder` if it is a notebook, or a link that leads out of the folder, which is noted."""
    if _leads_out(path, folder):
        return _nothing(path, student, "a symbolic link that leads out of the folder: not followed")
    strange = [] if path.suffix == ".ipynb" else [f"its name does not end in .ipynb: {path.name}"]
    return HandedIn(path, student, material, notes=strange) if _is_notebook(path) else None


def _nothing(path: Path, student: str, note: str) -> HandedIn:
    return HandedIn(path, student, None, [Grade(student, path.name, "", "failed", _line(note))], [note])


def _student(path: Path) -> str:
    """The name of a student from a file's: "zoe" of zoe.ipynb and of zoe.ipynb.txt."""
    return path.name[: path.name.lower().find(".ipynb")] if ".ipynb" in path.name.lower() else path.stem


def _is_notebook(path: Path) -> bool:
    """Whether a file is a notebook by its name or, whatever its name, by what it holds."""
    if path.exists() and not path.is_file():  # a pipe or a socket, which would be waited for
        return False
    if ".ipynb" in path.name.lower():
        return True
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        return data.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and b'"nbformat"' in data
    return False


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a path ends, through symbolic links, outside of `folder`."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # links may lead in a circle


# ----------------------------------------------------------------------------------- one notebook
def grade(work: HandedIn, limits: Limits, walled: bool) -> HandedIn:
    """Run a notebook's cells in a sandbox (profile smoke) and judge its exercises; whatever happens is noted."""
    if not work.grades:
        _grade(work, limits, walled)
    if not work.grades:
        work.grades.append(Grade(work.student, work.path.name, "", "failed", _line(work.notes[0])))
    return work


def _grade(work: HandedIn, limits: Limits, walled: bool) -> None:
    from pmeta_course.regression.runner import load

    try:
        nb = load(work.path)
    except Exception as error:  # noqa: BLE001 - nbformat raises many kinds for a broken file
        work.notes.append(f"not a notebook that can be read: {_line(error)}")
        return
    names, data = list(exercises()), COURSE.parents[1] / "data"
    todo = steps(nb, names)
    there = [s.exercise for s in todo if s.exercise]
    numbers = {name.split(".")[0] for name in there} or {work.path.name.split("_")[0].split(".")[0]}
    asked = [name for name in names if name.split(".")[0] in numbers]
    if not there:
        work.notes.append('no exercise was found: none of its cells calls `check("…", answer)`')
    grades, skip, errors, endings = {}, set(), [], []
    while there and len(skip) <= RESTARTS and not set(asked) <= grades.keys():
        position, errors = None, []
        try:
            with Sandbox(work.path, work.material, data if data.is_dir() else None, limits, walled) as box:
                raised_before = ""
                for step in todo:
                    position = step.position
                    if step.exercise:
                        if step.exercise not in grades:
                            grades[step.exercise] = _judge(box, step.exercise, raised_before)
                        raised_before = ""
                    elif position not in skip:
                        if said := box.ask(run=step.code).get("error"):
                            raised_before = f"cell {position}: {_line(said)}"
                            errors.append(raised_before)
                        if PROFILE.search(step.code):  # tagged as parameters or not: graded in seconds, not in hours
                            box.ask(run='PROFILE = "smoke"')
            break
        except Ended as end:
            where = f"cell {position}: {end}" if position else str(end)
            endings.append(where)
            if position is None:  # it never started
                break
            if following := next((s.exercise for s in todo if s.exercise and s.position >= position), None):
                grades.setdefault(following, ("failed", where))
            skip.add(position)
    changed = {s.exercise: s.note for s in todo if s.note}
    work.notes += endings + errors + [f"{name}: {changed[name]}" for name in asked if name in changed]
    missing = ("failed", endings[-1] if endings else "its check cell is missing")
    for name in asked:
        status, message = grades.get(name, missing)
        work.grades.append(Grade(work.student, work.path.name, name, status, _line(message)))


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


def _decoded(box: Sandbox, message: object, call) -> Any:
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
    grades = [asdict(g) for work in works for g in work.grades]
    if args.csv:
        with writing(args.csv, "give another --csv"), open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*grades[0], "protection"])
            writer.writeheader()
            writer.writerows(g | {"protection": words.split(":")[0]} for g in grades)
    notes = [{"student": w.student, "notebook": w.path.name, "notes": w.notes} for w in works if w.notes]
    report = {"schema": 1, "protection": words, "limits": asdict(limits), "notes": notes, "grades": grades}
    write_report(args.json, report)
    return int(any(g["status"] != "correct" for g in grades))
