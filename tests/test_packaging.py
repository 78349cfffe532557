"""The install files agree with each other, and name no machine."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch", "mujoco": "mujoco-python", "matplotlib": "matplotlib-base"}


def conda() -> dict[str, set[str]]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    requirements = [Requirement(entry) for entry in listed if isinstance(entry, str)]
    return {r.name: {str(s) for s in r.specifier} for r in requirements}


def constraints() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): Version(v) for name, v in (line.split(" ")[0].split("==") for line in lines)}


def test_conda_lists_the_same_packages_with_the_same_bounds():
    wanted = {r.name: {str(s) for s in r.specifier} for r in map(Requirement, PROJECT["dependencies"])}
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}
    found = conda()
    assert found.pop("python") == {str(s) for s in Requirement("python" + PROJECT["requires-python"]).specifier}
    found.pop("pip")
    assert found == wanted


def test_constraints_pin_every_direct_requirement_within_its_bounds():
    pinned = constraints()
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + extras["dev"] + extras["site"] + extras["ray"] + extras["slurm"]:
        requirement = Requirement(text)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_every_module_that_the_library_imports_is_a_requirement():
    """An import that only a test's or an extra's requirement brings along would break a plain installation."""
    named = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    asked = {"torch", "gymnasium", "mujoco", "jupyterlab", "ipywidgets", "seaborn", "papermill"}
    assert asked <= named  # the packages that the course is made for
    providers = {"PIL": "pillow", "IPython": "ipykernel"}  # ipykernel brings IPython
    found = set()
    for path in [*tracked("pmeta_lib/*.py"), *tracked("notebooks/pmeta_course/*.py")]:
        for node in ast.parse(path.read_text()).body:  # at the top of a module; what a function imports may be optional
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    found -= set(sys.stdlib_module_names) | {"pmeta_lib", "pmeta_course"}
    assert {canonicalize_name(providers.get(name, name)) for name in found} <= named


def test_installed_versions_are_those_pinned():
    from importlib.metadata import version

    pinned = constraints()
    for text in PROJECT["dependencies"]:
        name = Requirement(text).name
        assert Version(version(name)).base_version == pinned[canonicalize_name(name)].base_version, name


def test_version_is_said_once():
    import pmeta_lib

    assert pmeta_lib.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True,
                             text=True)  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_path_of_a_machine_in_any_text_file():
    found = []
    for path in tracked("*.py", "*.md", "*.toml", "*.yml", "*.json", "*.ipynb", "Makefile", ".ci/*"):
        if re.search(r"(?<![\w.])/(home/(?!me/)|root/|work/|Users/)\w", path.read_text(errors="replace")):
            found.append(path.name)
    assert not found


def test_library_uses_no_global_randomness_and_no_pickle():
    legacy = r"np\.random\.(seed|rand|randn|uniform|choice|normal|randint)\("
    banned = legacy + r"|torch\.manual_seed\(|import pickle|torch\.load\("
    found = [p.name for p in tracked("pmeta_lib/*.py") if re.search(banned, p.read_text())]
    assert not found


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, at its top or inside a function: `from a import b` counts as a.b too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return {name for name in found if name.split(".")[0] in ("pmeta_lib", "pmeta_course")}


def test_imports_go_down_only():
    floors = ["files|options|moreau|statistics", "tabular|envs|sac|policy_gradient", "experiments", "figures|cli"]
    level = {name: k for k, names in enumerate(floors) for name in names.split("|")}
    wrong = []
    for path in tracked("pmeta_lib/*.py"):
        room = path.relative_to(ROOT / "pmeta_lib").parts[0].removesuffix(".py")
        for name in imported(path):
            if name.startswith("pmeta_course"):
                wrong.append(f"{path.name} imports {name}: the library knows nothing of the course")
            elif room != "__init__" and level.get([*name.split("."), ""][1], -1) > level[room]:
                wrong.append(f"{path.name} imports {name}")
    for path in tracked("notebooks/pmeta_course/regression/*.py"):
        allowed = ("pmeta_lib.files", "pmeta_course.regression")
        wrong += [f"{path.name} imports {n}: the runner knows no reinforcement learning" for n in imported(path)
                  if "." in n and not n.startswith(allowed)]  # fmt: skip
    assert not wrong


def test_no_two_modules_import_each_other():
    """No cycle among the imports at the top of modules (what a function imports later is no obstacle to reading)."""
    files = {}
    for path in [*tracked("pmeta_lib/*.py"), *tracked("notebooks/pmeta_course/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(p for p in parts if p not in ("notebooks", "__init__"))] = path
    above = {}
    for name, path in files.items():
        top = ast.Module(
            [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)], []
        )
        above[name] = set()
        for node in top.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{a.name}" for a in node.names]
                names = [n if n in files else node.module for n in inner]
            above[name] |= {n for n in names if n in files and n != name}
    done, cycles = set(), []

    def visit(name, trail):
        if name in trail:
            cycles.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for other in sorted(above[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in files:
        visit(name, [])
    assert not cycles


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_command_line_greets(words):
    done = subprocess.run([sys.executable, "-m", "pmeta_lib.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0 and "pmeta" in done.stdout and not done.stderr


def test_unknown_verb_is_one_line_with_the_choices():
    done = subprocess.run([sys.executable, "-m", "pmeta_lib.cli", "curse"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "course" in done.stderr and "Did you mean" in done.stderr


HELP = """
import sys
from pmeta_lib import cli
try:
    cli.main([sys.argv[1], "--help"])
except SystemExit:
    pass
print([name for name in ("torch", "pandas", "nbformat", "scipy", "matplotlib") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("verb", ["course", "lab", "train", "adapt", "sweep", "report", "student", "check", "doctor"])
def test_help_waits_for_no_heavy_import(verb):
    done = subprocess.run([sys.executable, "-c", HELP, verb], capture_output=True, text=True)
    assert done.stderr.strip() == "[]" and "usage: pmeta" in done.stdout, done.stderr
