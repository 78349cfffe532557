"""The pictures behind the sliders of the website: `python docs/site/frames.py NOTEBOOK FOLDER [--budget N]`.

A static page has no Python, so every `Explorer` of a notebook is drawn here, by its own `draw`, at the points of a
grid over its controls: all options of a menu, evenly spaced positions of a slider (its ends and its start among them),
about N pictures in all. Of the notebook, only the cells that the Explorer needs are run: the last one to bind each name
that it uses, directly or through another cell. Folders of pictures are kept from build to build, under a name made of
all sources that they depend on.
"""

import argparse
import ast
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import symtable
import typing
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from pmeta_course.show import widgets

ROOT = Path(__file__).resolve().parents[2]
BUDGET, DPI, COLOURS = 48, 110, 96
# calls that show an Explorer: the class, and the functions that are annotated to return one
MAKERS = {"Explorer"} | {n for n, f in vars(widgets).items() if callable(f)
                         and typing.get_type_hints(f).get("return") is widgets.Explorer}  # fmt: skip


def flat(statements: list[ast.stmt]):
    """The simple statements within `statements` in the order they are written, loops and branches taken apart."""
    for node in statements:
        match node:
            case ast.For():
                yield ast.Assign([node.target], node.iter)
            case ast.With():
                yield from (
                    ast.Assign([i.optional_vars or ast.Name("_", ast.Store())], i.context_expr) for i in node.items
                )
            case ast.If() | ast.While():
                yield ast.Expr(node.test)
            case ast.Try():
                yield from (s for h in node.handlers for s in flat(h.body))
            case _:
                yield node
                continue
        for part in (node.body, getattr(node, "orelse", []), getattr(node, "finalbody", [])):
            yield from flat(part)


def names(source: str) -> tuple[set[str], set[str], set[str]]:
    """What a cell binds or changes in place; what its statements read first; what its functions read when called."""
    binds, reads, later = set(), set(), set()
    for statement in flat(ast.parse(source).body):
        table = symtable.symtable(ast.unparse(ast.fix_missing_locations(statement)), "cell", "exec")
        top, inner = table.get_symbols(), list(table.get_children())
        here = {s.get_name() for s in top if s.is_referenced()}
        while inner:
            child = inner.pop()
            wanted = here if child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr") else later
            wanted |= {s.get_name() for s in child.get_symbols() if s.is_global()}
            inner += child.get_children()
        reads |= here - binds
        binds |= {s.get_name() for s in top if s.is_assigned() or s.is_imported() or s.is_namespace()}
        stores = (n for n in ast.walk(statement) if isinstance(n, ast.Subscript | ast.Attribute))
        binds |= {n.value.id for n in stores if isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name)}
    return binds, reads, later - binds


def needed(cells: list[str], at: int) -> list[int]:
    """The cells before `at` that it depends on, and itself, in order."""
    known, chosen, waiting = [names(c) for c in cells], set(), [at]
    while waiting:
        k = waiting.pop()
        if k in chosen:
            continue
        chosen.add(k)
        _, reads, later = known[k]
        for name, before in [*((n, k) for n in reads), *((n, at + 1) for n in later)]:
            waiting += [j for j in range(before) if name in known[j][0]][-1:]
    return sorted(chosen)


def explorer_cells(nb) -> list[int]:
    """Numbers of the code cells that call a maker of Explorers."""
    found = []
    for k, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and MAKERS & set(cell.source.replace("(", " ").split()):
            calls = (n.func for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call))
            if {f.id for f in calls if isinstance(f, ast.Name)} & MAKERS:
                found.append(k)
    return found


def positions(control: ipywidgets.Widget) -> list:
    """All values of a control, in order."""
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    if isinstance(control, ipywidgets.Dropdown):
        return [value for _, value in control._options_full]
    count = round((control.max - control.min) / control.step)
    values = [control.min + k * control.step for k in range(count + 1)]
    if isinstance(control, ipywidgets.FloatLogSlider):
        return [control.base**v for v in values]
    return values if isinstance(control, ipywidgets.IntSlider) else [round(v, 10) for v in values]


def thinned(values: list, start, count: int) -> list:
    """`count` of the values: both ends, the nearest to `start`, and the others as evenly as can be."""
    at = int(np.argmin([abs(v - start) for v in values]))
    kept = {int(k) for k in np.linspace(0, len(values) - 1, count).round()}
    inner = kept - {0, len(values) - 1}
    if at not in kept and inner:
        kept.remove(min(inner, key=lambda k: abs(k - at)))
    return [values[k] for k in sorted(kept | {at})]


def grid(controls: dict, budget: int) -> dict[str, list]:
    """The values of every control to draw, about `budget` combinations in all; never fewer than three of a slider."""
    every = {name: positions(c) for name, c in controls.items()}
    sliders = [n for n, c in controls.items() if not isinstance(c, ipywidgets.Dropdown | ipywidgets.Checkbox)]
    counts = {n: min(3, len(every[n])) if n in sliders else len(v) for n, v in every.items()}
    while True:
        open_ = [n for n in sliders if counts[n] < len(every[n])]
        if not open_:
            break
        thinnest = min(open_, key=lambda n: counts[n])
        if np.prod(list(counts.values())) / counts[thinnest] * (counts[thinnest] + 1) > budget:
            break
        counts[thinnest] += 1
    return {n: thinned(v, controls[n].value, counts[n]) if n in sliders else v for n, v in every.items()}


def webp(figure) -> bytes:
    """The figure in a small lossless palette; it is closed."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=DPI)
    plt.close(figure)
    image = Image.open(full).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.convert("RGB").save(small, "webp", lossless=True, method=4)
    return small.getvalue()


def shown_by(cells: list[str]) -> list[widgets.Explorer]:
    """Run the cells and return the Explorers that the last one shows."""
    shown, ask = [], widgets.Explorer._ipython_display_
    widgets.Explorer._ipython_display_ = lambda explorer: shown.append(explorer)
    InteractiveShell.clear_instance()  # `display` asks for the one instance
    shell, here = InteractiveShell.instance(), Path.cwd()
    shell.run_cell("from IPython.display import display")
    os.chdir(ROOT / "notebooks")
    try:
        for k, source in enumerate(cells):
            if k == len(cells) - 1:
                shown.clear()
            with contextlib.redirect_stdout(io.StringIO()) as said:
                done = shell.run_cell(source)
            plt.close("all")
            if not done.success:
                raise RuntimeError(f"a cell failed: {said.getvalue()[-2000:]}\n{source}")
    finally:
        os.chdir(here)
        widgets.Explorer._ipython_display_ = ask
    return shown


def draw(explorer: widgets.Explorer, budget: int, folder: Path) -> dict:
    """Write an Explorer's pictures; return what the page needs: controls, and a file and a line for each frame."""
    values, controls = grid(explorer.controls, budget), []
    for name, control in explorer.controls.items():
        every, kept = positions(control), values[name]
        kind = {"Dropdown": "menu", "Checkbox": "box"}.get(type(control).__name__, "slider")
        labels = [str(v) if kind == "menu" else f"{v:.3g}" for v in kept]
        if kind == "menu":
            labels = [label for label, _ in control._options_full]
        start = min(range(len(kept)), key=lambda k: kept[k] != control.value if kind == "menu" else
                    abs(kept[k] - control.value))  # fmt: skip
        controls.append({"name": name, "label": control.description or name, "kind": kind, "values": labels,
                         "start": start, "of": len(every)})  # fmt: skip
    frames = []
    for chosen in itertools.product(*values.values()):
        with contextlib.chdir(ROOT / "notebooks"):  # it may read a file that lies beside the notebooks
            figure, numbers = explorer.draw_with(**dict(zip(values, chosen)))
        picture = webp(figure)
        name = hashlib.sha256(picture).hexdigest()[:16] + ".webp"
        (folder / name).write_bytes(picture)
        frames.append([name, numbers])
    return {"alt": explorer.alt, "controls": controls, "frames": frames}


def key(cells: list[str], budget: int) -> str:
    """Names the pictures by everything they are made from: the cells, the library, what they import of the course."""
    about = hashlib.sha256(json.dumps([cells, budget, DPI, COLOURS, matplotlib.__version__]).encode())
    course, named = ROOT / "notebooks" / "pmeta_course", set(re.findall(r"pmeta_course\.([\w.]+)", "\n".join(cells)))
    imported = [course / name.replace(".", "/") for name in named]
    paths = {p for part in (ROOT / "pmeta_lib", *imported) for p in (*part.rglob("*.py"), part.with_suffix(".py"))}
    for path in sorted(p for p in paths | {Path(__file__), Path(widgets.__file__)} if p.is_file()):
        about.update(path.read_bytes())
    if any("results" in cell for cell in cells):
        about.update((ROOT / "data" / "SHA256SUMS").read_bytes())
    return about.hexdigest()[:16]


def make(notebook: Path, out: Path, budget: int = BUDGET) -> dict[str, list[dict]]:
    """Cell id -> its Explorers, their pictures in `out`; drawn now or kept from an earlier build."""
    nb = nbformat.read(notebook, 4)
    code = [k for k, c in enumerate(nb.cells) if c.cell_type == "code" and "setup" not in c.metadata.get("tags", [])]
    sources, found = [nb.cells[k].source for k in code], {}
    for k in explorer_cells(nb):
        cells = [sources[j] for j in needed(sources, code.index(k))]
        folder = out / f"{notebook.stem[:2]}-{key(cells, budget)}"
        if not (folder / "explorers.json").exists():
            part = folder.with_name(folder.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            drawn = [draw(e, budget, part) for e in shown_by(cells)]
            (part / "explorers.json").write_text(json.dumps(drawn))
            part.rename(folder)
        explorers = json.loads((folder / "explorers.json").read_text())
        found[nb.cells[k].id] = [e | {"folder": folder.name} for e in explorers]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=int, default=BUDGET)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(make(given.notebook.resolve(), given.out.resolve(), given.budget)))
