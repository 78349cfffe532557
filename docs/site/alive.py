"""What makes the site's pages live: sliders over drawn frames, choice questions, the theatre's files, the API page."""

import base64
import html
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from pmeta_course.exercises import exercises, judge
from pmeta_course.show import theatre

ROOT = Path(__file__).resolve().parents[2]
OPTION = re.compile(r'^\* `"?([a-z0-9])"?`: (.*)$', re.MULTILINE)
ASKED = re.compile(r"^### Exercise (\d\d\.\d+)", re.MULTILINE)


# --------------------------------------------------------------------------------------------------- sliders


def frames(budget: int, only: list[str], workers: int = 2) -> tuple[dict[str, list[dict]], list[str]]:
    """Cell id -> the Explorers that the cell shows, with their frames in out/site-frames (see frames.py); complaints.

    `only`: numbers of notebooks; the sliders of the others stay pictures. Frames of a full build are kept for the next.
    """
    folder = ROOT / "out" / "site-frames"
    folder.mkdir(parents=True, exist_ok=True)

    def drawn(notebook: Path) -> dict:
        command = [sys.executable, str(Path(__file__).with_name("frames.py")), str(notebook), str(folder)]
        done = subprocess.run([*command, "--budget", str(budget)], capture_output=True, text=True)
        if done.returncode:
            complaints.append(f"the sliders of {notebook.name} stay pictures:\n{done.stderr[-3000:]}")
            return {}
        return json.loads(done.stdout.splitlines()[-1])

    # the longest first, so that no worker is left alone with it
    notebooks = [p for p in (ROOT / "notebooks").glob("*.ipynb") if not only or p.name[:2] in only]
    notebooks.sort(key=lambda p: (p.name[:2] not in ("03", "04", "09", "14"), p))
    found, complaints = {}, []
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(drawn, notebooks):
            found |= part
    kept = {about["folder"] for group in found.values() for about in group}
    if not only and not complaints:  # a full build: what it did not use is of older sources
        for old in {p.name for p in folder.iterdir()} - kept:
            shutil.rmtree(folder / old)
    return found, complaints


def explorer(about: dict) -> str:
    """The HTML of an Explorer: the frame that it starts from, and all that alive.js needs to show the others."""
    at = 0
    for control in about["controls"]:
        at = at * len(control["values"]) + control["start"]
    name, numbers = about["frames"][at]
    data = json.dumps(about).replace("</", "<\\/")
    alt = html.escape(f"{about['alt']} {numbers}", quote=True)
    return (
        f'<div class="explorer"><form class="controls"></form><img alt="{alt}" '
        f'src="../_static/frames/{about["folder"]}/{name}"><p class="numbers" role="status">{html.escape(numbers)}</p>'
        f'<script type="application/json">{data}</script></div>'
    )


def with_sliders(cell: dict, explorers: list[dict]) -> None:
    """Put live Explorers in the place of a cell's stored pictures."""
    pictures = [o for o in cell["outputs"] if "image/png" in o.get("data", {})]
    for output, about in zip(pictures, explorers):
        output["data"], output["metadata"] = {"text/html": explorer(about)}, {}


# ------------------------------------------------------------------------------------------- choice questions


def hidden(text: str, secret: str, size: int) -> str:
    """`text` in base64, padded to `size` bytes and mixed with a stream that `secret` starts; alive.js takes it off.

    Enough that neither the page nor its source shows an answer at a glance; as safe as the checkers in the package.
    """
    state = 2166136261
    for byte in secret.encode():
        state = (state ^ byte) * 16777619 % 2**32
    mixed = []
    for byte in text.encode().ljust(size):
        state = (state * 1664525 + 1013904223) % 2**32
        mixed.append(byte ^ state >> 24)
    return base64.b64encode(bytes(mixed)).decode()


def question(name: str, text: str) -> str:
    """The form of the choice question `name`, in the words of the exercise's `text`; "" for any other exercise."""
    options = getattr(exercises().get(name), "options", None)
    if not options:
        return ""
    words, answers = dict(OPTION.findall(text)), {}
    for option in options:
        status, diagnosis = judge(name, option)
        answers[str(option)] = f"✔ {name}: correct." if status == "correct" else f"✘ {name}: {diagnosis}"
    size = -(-max(len(a.encode()) for a in answers.values()) // 32) * 32
    rows = "".join(
        f'<label><input type="radio" name="{name}" value="{option}" '
        f'data-said="{hidden(answer, f"{name} {option}", size)}"> <b>{option}</b> '
        f"{html.escape(words.get(option, ''))}</label>"
        for option, answer in answers.items()
    )
    return (
        f'<form class="choice"><fieldset><legend>Answer {name} here</legend>{rows}</fieldset>'
        '<p class="said" role="status"></p></form>'
    )


def with_questions(cells: list[dict]) -> list[dict]:
    """The cells, with a form behind each choice question's empty cell."""
    asked, out = "", []
    for cell in cells:
        out.append(cell)
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and ASKED.search(source):
            asked = source
        elif "exercise" in cell["metadata"].get("tags", []) and asked:
            if form := question(ASKED.findall(asked)[-1], asked):
                out.append({"cell_type": "markdown", "id": f"{cell['id']}-choice", "metadata": {}, "source": form})
            asked = ""
    return out


# ------------------------------------------------------------------------------------------------ the theatre


def stage(out: Path) -> bool:
    """Put the theatre's bundle and files into `out`, as scripts; False where `make theatre` has not been run."""
    if not (theatre.BUNDLE / "page.js").exists():
        return False
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(theatre.BUNDLE / "page.js", out)
    contents = theatre.files() | {"mujoco.wasm": (theatre.BUNDLE / "mujoco.wasm").read_bytes()}
    for name, data in theatre.zipped(contents).items():
        text = f"pmetaFiles[{json.dumps(name)}]={json.dumps(base64.b64encode(data).decode())};\n"
        (out / f"{name}.js").write_text(text)
    return True


# ------------------------------------------------------------------------------------------------ the library


def api() -> str:
    """A section for each module of the library, for Sphinx to fill from the docstrings."""
    package, parts = import_module("pmeta_lib"), []
    for module in pkgutil.walk_packages(package.__path__, "pmeta_lib."):
        if not module.ispkg and not module.name.split(".")[-1].startswith("_"):
            parts.append(
                f"## {module.name.removeprefix('pmeta_lib.')}\n\n```{{eval-rst}}\n.. automodule:: {module.name}\n"
                "   :members:\n```\n"
            )
    return "\n".join(parts)


def as_written(lines: list[str]) -> None:
    """Docstrings are plain text with `code`: in place, make of `lines` what Sphinx shows unchanged."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    out = []
    for text in paragraphs:
        rows = text.splitlines()
        if any(row.startswith((" ", "- ", "* ")) for row in rows) or "  " in text.strip():
            out += ["::", "", *(f"    {row}" for row in rows), ""]
            continue
        bits = re.split(r"(`[^`]*`)", text)
        safe = [f"`{b}`" if b.startswith("`") and len(b) > 2 else re.sub(r"([\\*|`_])", r"\\\1", b) for b in bits]
        joined = "".join(
            b + ("\\ " if b.endswith("``") and n[:1].isalnum() else "") for b, n in zip(safe, [*safe[1:], ""])
        )
        out += [*joined.splitlines(), ""]
    lines[:] = out
