"""What `--help` says about settings and options: read from the source of their classes, without importing them."""

import ast
import functools
import importlib.util
from pathlib import Path

SETTINGS = "pmeta_lib.sac.settings:Settings"
WORDS = {
    "Whole": "whole number from 0", "Count": "whole number from 1", "Several": "whole number from 2",
    "NotNegative": "number from 0", "Positive": "number above 0", "Share": "number from 0 to 1",
    "MetaStep": "number from 0 to 2", "AMetaStep": "number above 0 to 2", "Widths": "whole numbers",
    "int": "whole number", "float": "number", "bool": "true or false",
    "Aggregate": "drawn or all", "Baseline": "linear or network", "Precision": "float32, bfloat16 or auto",
    "float | None": "number",
}  # fmt: skip


@functools.cache
def described(location: str) -> list[tuple[str, str, str, str]]:
    """(name, type, default, meaning) of each option of the class at `location`, "module:Class", read from its source:
    the comment behind a field is its meaning. Nothing is imported, so that `--help` need not wait for PyTorch."""
    module, name = location.split(":")
    source = Path(importlib.util.find_spec(module).origin).read_text()
    tree, lines, found = ast.parse(source), source.splitlines(), {}
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    imported = {a.asname or a.name: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    for base in (b.id for b in node.bases if isinstance(b, ast.Name) and b.id != "Learner"):
        found |= {entry[0]: entry for entry in described(f"{imported.get(base, module)}:{base}")}
    for field in (n for n in node.body if isinstance(n, ast.AnnAssign)):
        kind, option = ast.unparse(field.annotation), ast.unparse(field.target)
        if not kind.startswith("ClassVar"):
            default = ast.unparse(field.value).strip("()'")
            meaning = lines[field.end_lineno - 1][field.end_col_offset :].partition("# ")[2]  # or that of the base's:
            found[option] = (option, WORDS.get(kind, kind), default, meaning or found.get(option, ("",) * 4)[3])
    return list(found.values())


def listing(title: str, location: str) -> str:
    """The options of the class at `location`, a line each: name, default, type, meaning."""
    rows = described(location) or [("(none)", "", "", "")]
    return f"{title}:\n" + "".join(f"  {n:<20} {d:<10} {k:<22} {why}".rstrip() + "\n" for n, k, d, why in rows)
