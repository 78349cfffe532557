"""examples:
  pmeta student class_edition              all notebooks, and the stored results that they read
  pmeta student class_edition --only 02 04

There is one source: the course's notebooks, whose cells tagged `solution` are left out here, with the output of
the checks behind them. A notebook that shows a line of a solution anywhere else is refused.
"""

import argparse
import copy
import re
import shutil
from functools import partial
from pathlib import Path

from pmeta_course.regression.command import choose, course_folder, read_sources
from pmeta_lib.files import UserError, json_text, writing

KEPT = ("profile", "parameters", "versions")  # of what is known about the stored outputs
HEADER = re.compile(r"(def|for|while|if|else|with|import|from)\b")  # lines that give nothing away
READ = ("results", "videos", "checkpoints")  # folders of data/ that notebooks read


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="DIR", help="a new folder: it gets notebooks/ and data/")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="notebooks: a number (04) or a name")
    parser.add_argument("--notebooks", type=Path, metavar="DIR", help="the source; default: the course")


def _tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def student_edition(nb):
    """A copy of a notebook without its solution cells, without the output of the cells that check them."""
    nb = copy.deepcopy(nb)
    for before, cell in zip(nb.cells, nb.cells[1:]):
        if cell.cell_type == "code" and (_tagged(before, "solution") or _tagged(before, "exercise")):
            cell.outputs, cell.execution_count = [], None
    nb.cells = [cell for cell in nb.cells if not _tagged(cell, "solution")]
    facts = nb.metadata.get("pmeta", {})
    nb.metadata.pmeta = {"edition": "student"} | {k: facts[k] for k in KEPT if k in facts}
    return nb


def telling(line: str) -> str:
    """What a line of a solution gives away: its expression without comment and spaces, or nothing."""
    line = line.split("  #")[0].strip()
    if line.startswith("answer ="):  # a choice or a number: too short to be looked for without its name
        return line.replace(" ", "")
    expression = re.sub(r"\s", "", re.sub(r"^(return|\w+ =) ", "", line))
    return "" if HEADER.match(line) or len(expression) < 8 else expression


def leaks(source, edition) -> list[str]:
    """Lines of the solutions of `source` that still stand in `edition`: in cells, outputs or metadata."""
    lines = {telling(x) for c in source.cells if _tagged(c, "solution") for x in c.source.splitlines()} - {""}
    parts = {f"cell {i}": cell for i, cell in enumerate(edition.cells, 1)} | {"the metadata": edition.metadata}
    text = partial(json_text, ensure_ascii=False)
    flat = {where: re.sub(r"\s|\\n", "", text(part)) for where, part in parts.items()}
    return [f"{where} shows {x!r}" for where, shown in flat.items() for x in sorted(lines) if text(x)[1:-1] in shown]


def main(args: argparse.Namespace) -> int:
    import nbformat  # slow, and `--help` need not wait for it

    folder = args.notebooks or course_folder()
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out} exists and is not empty: give a new folder, nothing is overwritten")
    sources = read_sources(choose(folder, args.only))
    editions = {path: student_edition(nb) for path, nb in sources.items()}
    for path, edition in editions.items():
        if found := leaks(sources[path], edition):
            raise UserError(f"{path.name}: a solution would be given away: {found[0]} (cells of the student edition)")
    with writing(args.out, "give another folder"):
        (args.out / "notebooks").mkdir(parents=True, exist_ok=True)
        for path, edition in editions.items():
            (args.out / "notebooks" / path.name).write_text(nbformat.writes(edition) + "\n", encoding="utf-8")
        for name in READ:
            if (data := folder.parent / "data" / name).is_dir():
                shutil.copytree(data, args.out / "data" / name, ignore=shutil.ignore_patterns("__pycache__"))
    exercises = sum(_tagged(c, "exercise") for nb in editions.values() for c in nb.cells)
    print(f"{len(editions)} notebooks with {exercises} exercises in {args.out / 'notebooks'}")
    return 0
