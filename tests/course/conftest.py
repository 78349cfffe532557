"""Tiny notebooks, written by the tests that need them, and the real command line to run them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import filelock
import nbformat
import psutil
import pytest

HEAD = 'PROFILE = "quick"\nSEED = 0'


def write_notebook(path: Path, *cells: str, head: str | None = HEAD, tags: dict | None = None) -> Path:
    """A notebook: a title, the parameters cell (cell 2), then the code cells. tags: by number of a code cell."""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {path.stem}")])
    if head is not None:
        nb.cells.append(nbformat.v4.new_code_cell(head, metadata={"tags": ["parameters"]}))
        cells = ("(PROFILE, SEED)\nNone", *cells) if "SEED" in head else cells
    for i, cell in enumerate(cells):
        nb.cells.append(nbformat.v4.new_code_cell(cell, metadata={"tags": (tags or {}).get(i, [])}))
    for i, cell in enumerate(nb.cells):
        cell.id = f"cell-{i}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def command(*args) -> list[str]:
    return [sys.executable, "-m", "pmeta_lib.cli", "course", *map(str, args)]


def environment(**extra) -> dict:
    return {k: v for k, v in os.environ.items() if k != "CI"} | {"OMP_NUM_THREADS": "1"} | extra


def run_course(*args, **extra) -> SimpleNamespace:
    """`pmeta course …`: its exit code, what it printed, and the notebooks of summary.json by name."""
    done = subprocess.run(
        command(*args), capture_output=True, text=True, env=environment(**extra), timeout=300, check=False
    )
    summary, out = None, Path(args[args.index("--out") + 1]) if "--out" in args else None
    if out and (out / "summary.json").exists():
        summary = json.loads((out / "summary.json").read_text())
    notebooks = {n["name"]: n for n in summary["notebooks"]} if summary else {}
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, summary=summary, notebooks=notebooks)


def processes_with(word: str) -> list[int]:
    """Living processes that carry `word` in their environment or command line, this one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join(process.cmdline()) + " ".join(f"{k}={v}" for k, v in process.environ().items())
            if word in text and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: what `make(folder)` returns, made by one of the test processes for all of them."""

    def call(name, make):
        shared = tmp_path_factory.getbasetemp()
        shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
        with filelock.FileLock(shared / f"{name}.lock"):
            found, folder = shared / f"{name}.json", shared / name
            if not found.exists():
                folder.mkdir()
                found.write_text(json.dumps(make(folder), default=vars))
        return json.loads(found.read_text(), object_hook=Found), folder

    return call


class Found(dict):
    """A dict whose entries can be read as attributes, as those of the result of a run can."""

    __getattr__ = dict.__getitem__


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(
        write=write_notebook, course=run_course, processes_with=processes_with, command=command, env=environment
    )
