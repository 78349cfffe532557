"""The course and its documents as a website that asks the network for nothing: `make site`, then open site/index.html.

Sphinx reads the stored notebooks and never runs them, so a page shows what the notebook's author saw, and a widget
moves over frames drawn for the purpose (site/frames.py). The source folder is the repository itself: links between
files work unchanged.
"""

import json
import shutil
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import nbformat
from sphinx.util import logging

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs" / "site"), str(ROOT), str(ROOT / "notebooks")]
import alive  # noqa: E402
import frames  # noqa: E402
from pmeta_course.grading.student import student_edition  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project, release, author = "pmeta", PROJECT["version"], PROJECT["authors"][0]["name"]
copyright = author
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "data/README.md", "data/**/README.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "out", "site", "tests", "pmeta_lib", "build", "dist", "venv", "**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
suppress_warnings = ["myst.header", "ref.python"]  # third-level exercises; two classes named Plan

html_theme = "furo"
pygments_dark_style = "monokai"  # furo's own underlines every imported name
html_title = "pmeta"
html_favicon = "site/static/icon.svg"
html_static_path = ["site/static", str(files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg.js")]
html_css_files = ["pmeta.css", "theatre.css"]
html_js_files = [("alive.js", {"defer": "defer"})]
mathjax_path = "tex-svg.js"  # one file, no web fonts: works from a folder as well as from a server
# its menu could fetch speech rules that are not on board
mathjax3_config = {"options": {"enableMenu": False}}
html_copy_source = html_use_index = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}

CONTENTS = """
```{toctree}
:hidden:
:titlesonly:
:glob:
:caption: The course

notebooks/*
```

```{toctree}
:hidden:
:titlesonly:
:glob:
:caption: Documents

docs/*
data/**
CONTRIBUTING
CHANGELOG
```
"""

STORED = (
    "*This page shows the stored run of the `{profile}` profile. Its sliders move here, over frames drawn beforehand; "
    "in JupyterLab (`pmeta lab`) they take every value.* {{download}}`Download the notebook <{name}>`"
)
NO_THEATRE = "<p>This copy of the site was built without Node, so the theatre is not in it: see the README.</p>"


def read(app, name: str, source: list[str]) -> None:
    """What a page needs beyond its file: the home page a table of contents, a notebook its texts and its sliders."""
    if name == root_doc:
        source[0] += CONTENTS
    elif name == "docs/api":
        source[0] += alive.api()
    elif name == "docs/theatre" and not app.env.pmeta_theatre:
        source[0] = source[0].replace("<!-- built without it -->", NO_THEATRE)
    elif name.startswith("notebooks/"):
        if app.tags.has("student"):  # no solutions: for a class
            source[0] = nbformat.writes(student_edition(nbformat.reads(source[0], 4)))
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell.get("id") in app.env.pmeta_frames:
                alive.with_sliders(cell, app.env.pmeta_frames[cell["id"]])
            cell["metadata"]["mystnb"] = site_options(cell)
        stored = json.loads((ROOT / f"{name}.ipynb").read_text())["metadata"].get("pmeta")  # put there by the run
        notebook["cells"] = alive.with_questions(notebook["cells"])
        if stored:
            text = STORED.format(profile=stored["profile"], name=f"{Path(name).name}.ipynb")
            notebook["cells"].insert(1, {"cell_type": "markdown", "id": "stored", "metadata": {}, "source": text})
        source[0] = json.dumps(notebook)


def site_options(cell: dict) -> dict:
    """The alternative text of a cell's picture; a solution is folded away until the reader asks for it."""
    options = {}
    for output in cell.get("outputs", []):
        if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
            options["image"] = {"alt": alt}
    if "setup" in cell["metadata"].get("tags", []):  # of no interest on a page
        cell["metadata"]["tags"].append("remove-cell")
    if "solution" in cell["metadata"].get("tags", []):
        cell["metadata"]["tags"].append("hide-input")
        options |= {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
    return options


def index(app, error) -> None:
    """Web servers and people look for index.html."""
    if error is None and app.builder.name == "html":
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")


def keep_tidy(app) -> None:
    """myst_nb copies the pictures out of notebooks into a folder beside the site; better among the doctrees."""
    folder = str(Path(app.doctreedir) / "pictures")
    app.env.mystnb_config = app.env.mystnb_config.copy(output_folder=folder)


def prepare(app) -> None:
    """Draw the sliders' frames and lay out the theatre, before any page is read."""
    static = Path(app.outdir) / "_static"
    app.env.pmeta_frames = {}
    if app.builder.name == "html":
        only = app.config.pmeta_notebooks.split()
        app.env.pmeta_frames, complaints = alive.frames(int(app.config.pmeta_budget), only)
        for complaint in complaints:
            logging.getLogger(__name__).warning(complaint)
    for about in (e for group in app.env.pmeta_frames.values() for e in group):
        here, there = ROOT / "out" / "site-frames" / about["folder"], static / "frames" / about["folder"]
        shutil.copytree(here, there, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json"))
    app.env.pmeta_theatre = alive.stage(static / "theatre")


def setup(app):
    app.add_config_value("pmeta_budget", frames.BUDGET, "env")  # frames of an Explorer, about
    app.add_config_value("pmeta_notebooks", "", "env")  # numbers of those whose sliders are drawn; "": all
    app.connect("builder-inited", prepare)
    app.connect("builder-inited", keep_tidy, priority=900)  # after myst_nb's own
    app.connect("autodoc-process-docstring", lambda app, kind, name, thing, options, lines: alive.as_written(lines))
    app.connect("source-read", read)
    app.connect("build-finished", index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
