"""The theatre: stored policies move simulated robots in the reader's browser, physics included.

`Theatre()` as the last line of a cell shows it in JupyterLab, VS Code or Colab (an anywidget); the website has it on a
page. Both run the same JavaScript module (docs/site/theatre), MuJoCo's WebAssembly build for the physics, gymnasium's
own models, and the weights stored in data/results/deep. Nothing is asked of the network. The module is bundled once,
with Node: `make theatre`.
"""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import anywidget
import gymnasium
import traitlets
from matplotlib.colors import to_hex
from safetensors import safe_open

from pmeta_lib.envs.families import family
from pmeta_lib.figures import COLOURS
from pmeta_lib.files import UserError, json_text, sha256

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS, BUNDLE = ROOT / "data" / "results" / "deep", ROOT / "out" / "theatre"
STARTS = 10  # initial states, of gymnasium's seeds 0, 1, ...
RUN = "velocity along x − 0.001 |action|² + 1 while it stands"
# family -> what it is called, its reward in words (pmeta_lib.envs.robots has them as code, theatre/robots.js again)
FAMILIES = {
    "half-cheetah-dir": ("half-cheetah, forward or backward", "direction × velocity − 0.05 |action|²"),
    "hopper-params": ("hopper, bodies that differ", RUN),
    "walker2d-params": ("walker, bodies that differ", RUN),
    "ant-dir": ("ant, two directions", "velocity along the direction − 0.5 |action|² − 0.0005 |contacts|² + 1"),
}
ORDER = ("pmeta", "joint", "independent", "pearl")  # of the menu; others follow
LABELS = {"pmeta": "pMeta, personalized", "meta": "pMeta's meta-policy", "pearl": "PEARL"}


def casts(name: str, weights: Path) -> dict[str, dict]:
    """What can play in the family `name`: a menu entry -> the file of its weights, its layer sizes, its colour."""
    pattern = re.compile(rf"{name.replace('-', '_')}_([a-z0-9_]+)_seed(\d+)\.safetensors")
    matches = (pattern.fullmatch(path.name) for path in sorted(weights.glob("*.safetensors"), reverse=True))
    stored, found = {match[1]: match for match in matches if match}, {}  # of several seeds the first
    for learner in sorted(stored, key=lambda n: (*ORDER, n).index(n)):
        path, seed, key = weights / stored[learner][0], stored[learner][2], learner.replace("_", "-")
        with safe_open(path, "np") as tensors:
            facts = tensors.metadata()
        about = {"file": path.name, "sha256": sha256(path), "widths": json.loads(facts["actor"])}
        trained = f" ({int(facts['steps']) // 1000}k steps, seed {seed})"
        roles = [(key, key, "actor"), ("meta", "meta-policy", "meta")]
        for role, colour, tensor in roles if key == "pmeta" else roles[:1]:
            look = {"label": LABELS.get(role, role) + trained, "colour": to_hex(COLOURS[colour])}
            found[role] = about | look | {"tensor": tensor, "mix": role == "pmeta"}
    return found


def stage_set(name: str, tasks: int) -> tuple[dict, Path]:
    """What the page must know of a family's robot and its first `tasks` training tasks, and the robot's XML file."""
    robots, (label, reward) = family(name), FAMILIES[name]
    env: Any = gymnasium.make(f"pmeta_lib.envs:{robots.env_id}", task=robots.train_tasks[0]).unwrapped
    starts, rows = [], []
    for seed in range(STARTS):
        env.reset(seed=seed)
        starts.append({"qpos": env.data.qpos.tolist(), "qvel": env.data.qvel.tolist()})
    for k, task in enumerate(robots.train_tasks[:tasks]):
        words = robots.describe(task)
        rows.append({"label": f"body {k + 1} ({words})" if len(task) > 1 else words, "values": task.tolist()})
    xml = Path(env.fullpath)
    about = {"label": label, "reward": reward, "xml": xml.name, "frameSkip": env.frame_skip, "horizon": robots.horizon}
    env.close()
    return about | {"starts": starts, "tasks": rows}, xml


def files(weights: Path = WEIGHTS) -> dict[str, bytes]:
    """What the theatre reads besides MuJoCo: "theatre.json", gymnasium's models, the weights in the folder `weights`.

    Raises `UserError` if the folder holds no weights of any of its families.
    """
    about, found = {}, {}
    for name in FAMILIES:
        rows, cast = 0, casts(name, weights)
        for member in cast.values():
            with safe_open(weights / member["file"], "np") as stored:
                rows = max(rows, len(stored.get_tensor("actor")))
            found[member["file"]] = (weights / member["file"]).read_bytes()
        if cast:
            about[name], xml = stage_set(name, rows)
            about[name]["casts"], found[xml.name] = cast, xml.read_bytes()
    if not about:
        raise UserError(f"no weights in {weights}: make them with `python data/results/deep/regenerate.py`")
    return found | {"theatre.json": json_text({"families": about}).encode()}


def zipped(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The same files as the page reads them: gzip, the same bytes each time."""
    return {name: gzip.compress(data, mtime=0) for name, data in contents.items()}


class Theatre(anywidget.AnyWidget):
    """The theatre in a notebook. Raises `UserError` where the module has not been bundled (`make theatre`)."""

    _esm, _css = traitlets.Unicode().tag(sync=True), traitlets.Unicode().tag(sync=True)
    files = traitlets.Dict().tag(sync=True)

    def __init__(self, weights: Path = WEIGHTS, bundle: Path = BUNDLE):
        try:
            code, wasm = (bundle / "widget.js").read_text(), (bundle / "mujoco.wasm").read_bytes()
        except FileNotFoundError as error:
            raise UserError(
                f"the theatre is not built ({error.filename} is missing): run `make theatre`, which needs Node 18 or "
                "newer, or open the theatre on the course's website"
            ) from error
        style = (ROOT / "docs" / "site" / "static" / "theatre.css").read_text()
        super().__init__(_esm=code, _css=style, files=zipped(files(Path(weights)) | {"mujoco.wasm": wasm}))
