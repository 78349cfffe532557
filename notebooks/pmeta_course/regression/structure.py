"""What a notebook must look like: before it runs, after it ran, and as it is stored.

Every check returns a list of one-line problems. Cells count from 1, as their author sees them.
"""

import ast
import base64
import contextlib
import hashlib
import io
import itertools
import json
import re
import symtable
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pmeta_course.regression import literals
from pmeta_course.regression.compare import compare_all, load_expected
from pmeta_lib.files import UserError, json_text

MAX_STORED = 1_000_000  # bytes of a stored notebook
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
TYPES = {"int", "float", "complex", "str", "bytes", "bool", "None", "list", "dict", "tuple", "set"}
COURSE_PARAMETERS = ("PROFILE", "SEED")
WARNING = re.compile(r"^.*(?:Warning\b|\bWARN(?:ING)?\b).*$", re.MULTILINE)  # on stderr
PRINTED_WARNING = re.compile(r"^.*:\d+: \w*Warning: .*$", re.MULTILINE)  # on stdout
ABSOLUTE = re.compile(
    r"(?<![\w.:/~}+-])/(?:home|Users|root|tmp|work|mnt|private|opt|builds)/[\w.-]+|\b[A-Z]:\\\\?Users\\"
)


def load(path: Path):
    """The notebook at `path` in the newest format, every cell with an id of its own. Raises ValueError if it is none.

    A cell without an id (before nbformat 4.5), or with that of another before it, gets one by its position, the same at
    each reading: by it outputs and messages find their cell. nbformat itself would draw new ones at random.
    """
    import nbformat

    raw = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    if not isinstance(raw, dict) or not isinstance(raw.get("cells", raw.get("worksheets")), list):
        raise ValueError("it has no list of cells")
    with warnings.catch_warnings(action="ignore"):  # of missing and double ids, which are put right here
        nb = nbformat.v4.upgrade(nbformat.reads(json_text(raw), as_version=4))
    nb = nbformat.from_dict(nb)  # format 3 is a class of its own
    nb.nbformat_minor = max(5, nb.nbformat_minor)
    own = [c.get("id") if raw.get("nbformat_minor", 0) >= 5 else None for c in raw.get("cells", [])]
    taken = set()
    for i, (cell, name) in enumerate(itertools.zip_longest(nb.cells, own)):
        if not isinstance(name, str) or name in taken:
            name = next(n for k in itertools.count() if (n := f"cell-{i}" + f"-{k}" * bool(k)) not in {*own, *taken})
        if not isinstance(cell.get("source"), str):  # nbformat only warns of it
            raise ValueError(f"cell {i + 1} has no source")
        cell.id = name
        taken.add(name)
    return nb


def code_cells(nb, tag: str | None = None) -> list[tuple[int, Any]]:
    """(position, cell) of the code cells that are not empty, optionally only those with a tag."""
    cells = [(i + 1, c) for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip()]
    return [(i, c) for i, c in cells if tag is None or tag in c.metadata.get("tags", [])]


def python(source: str) -> ast.Module | None:
    """The syntax tree of a cell (magics allowed), or None if it does not parse."""
    with warnings.catch_warnings(action="ignore"):  # an invalid escape in a learner's text is not ours to report
        with contextlib.suppress(SyntaxError):
            return ast.parse(source)
        from IPython.core.inputtransformer2 import TransformerManager

        with contextlib.suppress(SyntaxError):
            return ast.parse(TransformerManager().transform_cell(source))
    return None


def parameters(nb) -> dict[str, tuple[object, set[str]]]:
    """What the parameters cell declares: name -> (default, names of the types it may have; empty = any)."""
    declared = {}
    for _, cell in code_cells(nb, "parameters"):
        for node in (python(cell.source) or ast.Module([], [])).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                names, hint = [node.target.id], {t.strip() for t in ast.unparse(node.annotation).split("|")}
            elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
                names, hint = [t.id for t in node.targets if isinstance(t, ast.Name)], set()
            else:
                continue
            default = None
            with contextlib.suppress(ValueError):
                default = literals.evaluate(node.value)
            types = {type(default).__name__} if default is not None else set()
            declared |= dict.fromkeys(names, (default, hint if hint and hint <= TYPES else types))
    return declared


def parse_parameter(text: str, name: str, types: set[str], where: str) -> object:
    """The value of `-p NAME=text` for a parameter of these types. Raises UserError if it is none of them."""
    if types == {"str"}:
        return text
    try:
        value = literals.evaluate(text)
    except ValueError:
        value = {"true": True, "false": False}.get(text.lower(), text)
    if types and (found := "None" if value is None else type(value).__name__) not in types:
        if found == "int" and "float" in types:
            return float(value)
        if "str" in types:
            return text
        raise UserError(f"parameter {name}={text}: {where} declares it as {' or '.join(sorted(types))}, not {found}")
    return value


def source_problems(nb, course: bool) -> list[str]:
    """What makes running a notebook pointless: no single parameters cell, or parameters that are ignored."""
    problems = []
    if nb.metadata.get("kernelspec", {}).get("language", "python").lower() not in ("python", "python3", "ipython"):
        return [f"it is written for the language {nb.metadata.kernelspec.language}: only Python notebooks are run"]
    tagged = [i + 1 for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        found = f"cells {tagged} are" if tagged else "no cell is"
        return [f"{found} tagged `parameters`: exactly one code cell must be, or nothing can be injected"]
    cells = [(i, c) for i, c in code_cells(nb) if i >= tagged[0] or "setup" not in c.metadata.get("tags", [])]
    if not cells or cells[0][0] != tagged[0]:
        problems.append(f"cell {tagged[0]} is the parameters cell, but it is not the first code cell")
    declared = parameters(nb)
    if missing := [p for p in COURSE_PARAMETERS if course and p not in declared]:
        problems.append(f"the parameters cell does not declare {' and '.join(missing)}")
    trees = {i: python(cell.source) for i, cell in cells}
    problems += [f"cell {i} is not valid Python" for i, tree in trees.items() if tree is None]
    nodes = trees[tagged[0]].body if trees.get(tagged[0]) else []
    assigned = {n for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) for n in _overwritten(node)}
    if hidden := assigned - declared.keys():
        problems.append(f"cell {tagged[0]} hides {', '.join(sorted(hidden))}: write every parameter as NAME = VALUE")
    read = {i: _globals_read(trees[i]) | _words(cell.source, trees[i]) for i, cell in cells[1:] if trees[i]}
    elsewhere = nb.metadata.get("pmeta", {}).get("read_elsewhere", [])
    written = {i: {n for node in trees[i].body for n in _overwritten(node)} for i in read}
    for name in declared:
        if name not in elsewhere and not any(name in names for names in read.values()):
            problems.append(
                f"the parameter {name} is never read after its cell: it would be ignored (if it is read in a way that "
                f'cannot be seen here, say so in the notebook\'s metadata: "pmeta": {{"read_elsewhere": ["{name}"]}})'
            )
        for i in (i for i, names in written.items() if name in names):
            problems.append(f"cell {i} overwrites the parameter {name}: an injected value would be ignored")
    return problems


def _words(source: str, tree: ast.Module) -> set[str]:
    """Names that texts refer to (`query("x > @N")`, "{N}", ":N", "N"); words in magics and in lines for the shell."""
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    words = {t for t in texts if t.isidentifier()} | {w for t in texts for w in re.findall(r"[@{$:]\s*(\w+)", t)}
    whole = source.lstrip().startswith("%%")
    lines = [line for line in source.splitlines() if whole or re.match(r"\s*(\w[\w, ]*=\s*)?[%!]", line)]
    return words | {word for line in lines for word in re.findall(r"\w+", line)}


def _globals_read(tree: ast.Module) -> set[str]:
    """Global names that a cell reads, at its top or in a function that has no variable of this name."""
    tables = [symtable.symtable(ast.unparse(tree), "cell", "exec")]
    for table in tables:
        tables.extend(table.get_children())
    seen = [(s, s.is_global() or t.get_type() == "class") for t in tables for s in t.get_symbols()]
    return {s.get_name() for s, outer in seen if outer and s.is_referenced()}


def _overwritten(node: ast.stmt, read: frozenset = frozenset()) -> Iterator[str]:
    """Global names that a statement assigns, also within `if`, `for`, `with` or `try`, without having read them."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.AugAssign):
        return
    items = getattr(node, "items", [])
    sources = [getattr(node, k, None) for k in ("value", "iter", "test", "subject")] + [i.context_expr for i in items]
    read |= {n.id for s in sources if s for n in ast.walk(s) if isinstance(n, ast.Name)}
    targets = [*getattr(node, "targets", []), getattr(node, "target", None), *(i.optional_vars for i in items)]
    names = [n for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]
    yield from {n.id for n in names if isinstance(n.ctx, ast.Store)} - read
    for part in (getattr(node, k, []) for k in ("body", "orelse", "finalbody", "handlers", "cases")):
        for inner in part:
            yield from _overwritten(inner, read)


def texts(output) -> str:
    """The text a reader sees of one output."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    data = output.get("data", {})
    return "\n".join(str(data[k]) for k in data if k in ("text/plain", "text/html", "text/markdown"))


def output_problems(nb, order: bool = True) -> list[str]:
    """What is wrong with the outputs of an executed notebook: order, errors, warnings, blank figures."""
    problems = []
    for i, cell in enumerate(nb.cells, 1):
        tags = cell.metadata.get("tags", [])
        for output in cell.get("outputs", []):
            if output.output_type == "error" and "raises-exception" not in tags:
                problems.append(f"cell {i} shows an error: {output.ename}: {output.evalue[:100]}")
            pattern = WARNING if output.get("name") == "stderr" else PRINTED_WARNING
            found = pattern.search(output.text) if output.output_type == "stream" else None
            if re.match(r"<Figure size .* with 0 Axes>", texts(output)):
                problems.append(f"figure without axes (cell {i}): it is blank")
            if found and "shows-warning" not in tags:
                problems.append(f"cell {i} shows a warning: {found.group(0).strip()[:200]}")
    for k, figure in enumerate(figures(nb), 1):
        if figure["blank"]:
            what = "cannot be decoded" if "broken" in figure else "is blank"
            problems.append(f"figure {k} (cell {figure['cell']}) {what}")
    counts = [c.execution_count for _, c in code_cells(nb) if "skip-execution" not in c.metadata.get("tags", [])]
    if order and counts != list(range(1, len(counts) + 1)):
        problems.append(f"its cells were not executed in order, from the first to the last: {counts}")
    return problems


def figures(nb, look: bool = True) -> list[dict]:
    """One dict a PNG in the outputs: cell, id, png, and (if we look at it) what `ink` says of it."""
    found = []
    for i, cell in enumerate(nb.cells, 1):
        for output in cell.get("outputs", []):
            if data := output.get("data", {}).get("image/png"):
                png = base64.b64decode(data)
                found.append({"cell": i, "id": cell.get("id"), "png": png} | (ink(png) if look else {}))
    return found


def ink(png: bytes) -> dict:
    """How much is drawn: shares of pixels off the background (ink) and with a hue (colour), the latter also in the
    upper, lower, left and right half, for panels that lose their content; is it blank? Blank is one colour all over, or
    the grey frame, ticks and texts of axes around an empty middle."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    except (OSError, SyntaxError, ValueError):  # no PNG, or one cut off
        return {"ink": 0.0, "colour": 0.0, "halves": [0.0] * 4, "blank": True, "broken": True}
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    planes = np.array([np.asarray(p, dtype=np.int16) for p in flat.split()])  # planes: far faster than a last axis
    hue = np.ptp(planes, axis=0) > 40
    common = np.array([np.bincount(plane.ravel()).argmax() for plane in planes])  # the background; grid lines are near
    drawn = hue | (abs(planes - common[:, None, None]) > 96).any(0)
    h, w = drawn.shape
    halves = (hue[: h // 2], hue[h // 2 :], hue[:, : w // 2], hue[:, w // 2 :])
    middle = drawn[h // 5 : h - h // 5, w // 5 : w - w // 5]
    one_colour = not np.ptp(planes, axis=(1, 2)).any()
    return {
        "ink": round(float(drawn.mean()), 6),
        "colour": round(float(hue.mean()), 6),
        "halves": [round(float(half.mean()), 6) for half in halves],
        "blank": bool(one_colour or not (hue.any() or middle.any())),
    }


def figure_problems(new: list[dict], old: list[dict]) -> list[str]:
    """Figures that went missing, or lost most of what was drawn, against the expected ones."""
    if len(new) != len(old):
        return [f"{len(new)} figures, expected {len(old)}"]
    problems = []
    for k, (a, b) in enumerate(zip(new, old, strict=True), 1):
        if a["blank"]:
            continue  # said already
        lost = [s for s in ("ink", "colour") if b[s] > 1e-4 and a[s] < 0.2 * b[s]]
        sides = zip(("upper", "lower", "left", "right"), a["halves"], b.get("halves", [0] * 4), strict=True)
        lost += [f"{side} half" for side, x, y in sides if y > 0.1 * b["colour"] > 1e-5 and x < 0.02 * y]
        if lost:
            problems.append(f"figure {k} (cell {a['cell']}) lost its {lost[0]} against the expected figure")
    return problems


def absolute_paths(nb) -> list[str]:
    """Paths of somebody's machine in the sources or the outputs."""
    return [
        f"cell {i}{part} holds the absolute path {found.group(0)}"
        for i, cell in enumerate(nb.cells, 1)
        for part, text in [("", cell.source), *((" output", texts(o)) for o in cell.get("outputs", []))]
        if (found := ABSOLUTE.search(text))
    ]


def stamp(nb) -> dict[str, str]:
    """Fingerprints of all the code ("source") and of all the outputs of a notebook, in order."""
    cells = [c for c in nb.cells if c.cell_type == "code"]
    parts = {"source": [c.source.rstrip() for c in cells], "outputs": [c.outputs for c in cells]}
    return {k: hashlib.sha256(json_text(part, sort_keys=True).encode()).hexdigest()[:16] for k, part in parts.items()}


def normalise(executed, source, facts: dict):
    """The source notebook with the outputs of its execution, but for the injected cell: counts 1..n, nothing volatile,
    `facts` added. A widget that comes with a static picture keeps the picture only; any other is kept with the state
    that shows it."""
    results, count, live = {c.id: c for c in executed.cells}, 0, False
    for cell in source.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = results[cell.id].outputs if cell.id in results else []
        count += bool(cell.source.strip())
        cell.execution_count = count if cell.source.strip() else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if WIDGET_VIEW not in _kinds(output):
                output.get("data", {}).pop(WIDGET_VIEW, None)
            live |= WIDGET_VIEW in output.get("data", {})
    for key in ("papermill", "widgets"):
        source.metadata.pop(key, None)
    if live and "widgets" in executed.metadata:
        source.metadata.widgets = executed.metadata.widgets
    source.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    source.metadata.language_info = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    source.metadata.pmeta = source.metadata.get("pmeta", {}) | facts | stamp(source)
    return source


def lost(nb, executed) -> list[str]:
    """Whether a notebook that is about to be stored holds less than ran, cell by cell and kind by kind."""
    nbs = (nb, as_authored(executed))
    kept, made = ([[_kinds(o) for o in c.outputs] for c in n.cells if c.cell_type == "code"] for n in nbs)
    if kept == made:
        return []
    less, all_ = (sum(len(kinds) for cell in cells for kinds in cell) for cells in (kept, made))
    return [f"it would hold {less} of the {all_} outputs and forms of outputs that ran; nothing was changed"]


def _kinds(output) -> list[str]:
    """The forms in which an output is to be stored: its MIME types, less a live widget that a picture stands for."""
    kinds = sorted(output.get("data", {})) or [output.output_type]
    pictured = any(kind.startswith("image/") for kind in kinds)
    return [kind for kind in kinds if not (pictured and kind == WIDGET_VIEW)]


def stored_problems(path: Path, expected: Path, course: bool) -> list[str]:
    """What is wrong with a notebook as it is stored. expected: the folder with a folder for each profile. A notebook
    that `--store` never wrote is only checked for paths and size, unless it is of the course."""
    nb = load(path)
    problems = absolute_paths(nb)
    if (size := path.stat().st_size) > MAX_STORED:
        problems.append(f"it is {size / 1e6:.1f} MB, the limit is {MAX_STORED / 1e6:.0f} MB: fewer or smaller figures")
    facts = nb.metadata.get("pmeta", {})
    if "source" not in facts:
        return problems + (["it was never stored with its outputs: run `pmeta course --store`"] if course else [])
    problems += output_problems(nb)
    again, now = "run `pmeta course --store` again", stamp(nb)
    if facts["source"] != now["source"]:
        problems.append(f"its outputs were stored from other code than it holds now: {again}")
    elif facts["outputs"] != now["outputs"]:
        problems.append(f"its outputs were changed after they were stored: {again}")
    stored = load_expected(expected / facts["profile"] / f"{path.stem}.json")
    away = [r.name for r in compare_all(facts.get("values", {}), stored, facts.get("parameters", {})) if not r.ok]
    if stored and away:
        problems.append(f"its stored values are out of step with the expectations ({', '.join(away[:5])}): {again}")
    return problems


def check_folder(folder: Path, expected: Path, course: bool = True) -> dict[str, list[str]]:
    """All problems of all notebooks of a folder, by name; what a test of a repository calls."""
    paths = sorted(folder.glob("*.ipynb"))
    return {p.stem: source_problems(load(p), course) + stored_problems(p, expected, course) for p in paths}


def as_authored(executed):
    """An executed notebook without the cells that papermill added."""
    added = {"injected-parameters", "papermill-error-cell-tag"}
    executed.cells = [c for c in executed.cells if not added & set(c.metadata.get("tags", []))]
    return executed
