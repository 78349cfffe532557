"""The five files of pMeta-SAC lead from the loop down to the idea (`test_architecture` holds their lines)."""

import ast
from pathlib import Path

import pmeta_lib

HERE = Path(pmeta_lib.__file__).parent


def calls(name: str) -> set[str]:
    """The names of all functions that a file calls."""
    found = [n.func for n in ast.walk(ast.parse((HERE / name).read_text())) if isinstance(n, ast.Call)]
    return {f.attr if isinstance(f, ast.Attribute) else f.id for f in found if isinstance(f, ast.Attribute | ast.Name)}


def test_the_path_leads_from_the_loop_to_the_idea():
    assert {"advance", "one_update"} <= calls("sac/training.py")
    assert {"update_temperature", "update_critics", "update_actor", "td_target"} <= calls("sac/update.py")
    assert {"sac_update", "proximal_pull", "local_step", "meta_step"} <= calls("sac/learners/pmeta.py")


def test_tabular_and_deep_code_call_the_same_formulas():
    for formula, tabular in (
        ("proximal_pull", "tabular/proximal.py"),
        ("local_step", "tabular/algorithm.py"),
        ("meta_step", "tabular/loop.py"),
    ):
        assert formula in calls(tabular) & calls("sac/learners/pmeta.py"), formula
