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
CONDA_NAMES = {
    "torch": "pytorch",
    "mujoco": "mujoco-python",
    "duckdb": "python-duckdb",
    "matplotlib": "matplotlib-base",
}


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
    for path in tracked("pmeta_lib/*.py"):
        for node in ast.parse(path.read_text()).body:  # at the top of a module; what a function imports may be optional
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    found -= set(sys.stdlib_module_names) | {"pmeta_lib"}
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


def test_imports_go_down_only():
    floors = ["moreau", "tabular|envs|sac", "experiments", "course|report|bench", "cli"]
    level = {name: k for k, names in enumerate(floors) for name in names.split("|")}
    wrong = []
    arithmetic = "report.statistics"  # functions of arrays that import nothing of ours: any floor may use them
    for path in tracked("pmeta_lib/*.py"):
        own = level.get(path.relative_to(ROOT / "pmeta_lib").parts[0].removesuffix(".py"))
        for name in re.findall(r"^\s*(?:from|import) pmeta_lib\.([\w.]+)", path.read_text(), re.M):
            if own is not None and name != arithmetic and level.get(name.split(".")[0], -1) > own:
                wrong.append(f"{path.name} imports {name}")
    assert not wrong


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_command_line_greets(words):
    done = subprocess.run([sys.executable, "-m", "pmeta_lib.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0 and "pmeta" in done.stdout and not done.stderr


def test_unknown_verb_is_one_line_with_the_choices():
    done = subprocess.run([sys.executable, "-m", "pmeta_lib.cli", "curse"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "course" in done.stderr and "Did you mean" in done.stderr
