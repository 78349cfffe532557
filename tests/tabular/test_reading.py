"""The reader's path through the tabular algorithm is short, and its symbols mean one thing each."""

import ast
import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from pmeta_lib.sac.learners.pmeta import PMeta
from pmeta_lib.tabular import pmeta

ROOT = Path(__file__).parents[2]
PATH = ["moreau.py", "tabular/algorithm.py", "tabular/loop.py", "tabular/policies.py"]
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in GLOSSARY.splitlines() if line.startswith("| ")][1:]


def test_the_readme_leads_there():
    readme = (ROOT / "README.md").read_text()
    places = [readme.index(f"(pmeta_lib/{name})") for name in PATH]
    assert places == sorted(places) and "(docs/glossary.md)" in readme


def test_every_option_is_in_the_glossary():
    names = {*list(inspect.signature(pmeta).parameters)[2:], *(f.name for f in fields(PMeta))}
    assert not [name for name in names if not any(f"`{name}`" in row[1] for row in ROWS)]


def test_no_symbol_and_no_name_has_two_rows():
    for column in (0, 1):
        words = [w for row in ROWS for w in re.split(r",\s*", row[column].split(";")[0]) if w]
        assert len(words) == len(set(words)), sorted(w for w in words if words.count(w) > 1)


@pytest.mark.parametrize("symbol", ["tau", "eta"])
def test_tau_and_eta_are_names_of_the_tabular_half_only(symbol):
    for path in (ROOT / "pmeta_lib").rglob("*.py"):
        if "tabular" in path.parts or path.name == "moreau.py":
            continue
        tree = ast.parse(path.read_text())
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
            n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)
        }
        assert symbol not in used, path


def test_tau_is_the_barrier_in_every_notebook():
    """Only the tabular notebooks use it; SAC's targets follow with polyak (kappa)."""
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        if path.name[:2] <= "05" or path.name[:2] == "12":  # 12 reads the tabular tables, whose column it is
            continue
        text = "".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        assert not re.search(r"\\tau\b|τ|\btau\b", text), path.name
