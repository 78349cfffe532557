"""What a sweep runs: a TOML file becomes a list of cells, or one error that lists every mistake with its place. The
keys at the top hold for all runs; a `[[block]]` is a grid of its own (families x learners x options x settings x seeds)
that overrides them; a `[scale.NAME]` overrides the top when it is chosen. `docs/sweeps.md` explains the language."""

import functools
import itertools
import json
import operator
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, create_model

from pmeta_lib.envs.families import FAMILIES, TaskFamily, family
from pmeta_lib.experiments.learners import LEARNERS, find, learner
from pmeta_lib.experiments.spec import FamilyName, LearnerName, PresetName, RunSpec
from pmeta_lib.files import UserError, known, unknown
from pmeta_lib.options import STRICT, Count, mistakes
from pmeta_lib.sac.agent import new_agent
from pmeta_lib.sac.settings import Settings

MOST_RUNS = 100_000
STACK = 16  # policies, at most, stacked by `pack = "auto"`; beyond, a seed more costs as much as a run of its own


class Cell(NamedTuple):
    """Runs that differ in nothing but their seed, and how many of them are stacked in one process."""

    runs: tuple[RunSpec, ...]
    pack: int


class Plan(NamedTuple):
    """All that a sweep is to run. `scales`: those the file has; `merged`: runs that two blocks ask for."""

    name: str
    scale: str | None
    scales: tuple[str, ...]
    cells: tuple[Cell, ...]
    merged: int = 0

    @property
    def runs(self) -> list[RunSpec]:
        return [spec for cell in self.cells for spec in cell.runs]


def _several(kind: Any) -> Any:
    """A list of `kind`, or one of it alone; where a value is a list itself, only a list of lists is several."""
    lists = get_origin(getattr(kind, "__origin__", kind)) is tuple

    def listed(value) -> list:
        several = isinstance(value, list) and (not lists or any(isinstance(v, list) for v in value))
        return value if several else [value]

    return Annotated[list[kind], Field(min_length=1), BeforeValidator(listed)]


def _different(values: list) -> list:
    if twice := sorted({str(v) for v in values if values.count(v) > 1}):
        raise UserError(f"{', '.join(twice[:5])} stands there twice")
    return values


def _seeds(value) -> list[int]:
    """[0, 1, 5], "0-9", or a list of both."""
    seeds: list[int] = []
    for part in value if isinstance(value, list) and value else [value]:
        text = f"{part}-{part}" if isinstance(value, list) and type(part) is int else str(part)  # a range of one seed
        ends = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
        if not ends or not 0 <= int(ends[2]) - int(ends[1]) < MOST_RUNS:
            raise UserError(f'seed {part!r}: give a list [0, 1, 2] of whole numbers from 0, or a range "0-9"')
        seeds += range(int(ends[1]), int(ends[2]) + 1)
    return _different(seeds)


def _pack(value) -> int | str:
    if value == "auto" or (type(value) is int and value > 0):
        return value
    raise UserError(f'{value!r}: give a whole number above 0 or "auto"')


def _grid(cls: type, name: str) -> Any:
    """The model of a table whose keys are the options of `cls` and whose values are one or several of them."""
    kinds = get_type_hints(cls, include_extras=True)
    axes: dict[str, Any] = {f.name: (_several(kinds[f.name]), None) for f in fields(cls)}
    return create_model(name, __config__=STRICT, **axes)


_options: dict[str, Any] = {name: (_grid(find(name, LEARNERS), name), None) for name in LEARNERS}
_section: dict[str, Any] = {  # what may stand at the top, in a block and in a scale alike
    "families": (Annotated[_several(FamilyName), AfterValidator(_different)], None),
    "learners": (Annotated[_several(LearnerName), AfterValidator(_different)], None),
    "preset": (PresetName, None),
    "train_tasks": (Count, None),
    "seeds": (Annotated[list[int], BeforeValidator(_seeds)], None),
    "pack": (Annotated[Any, AfterValidator(_pack)], None),
    "settings": (_grid(Settings, "settings"), None),
    "options": (create_model("options", __config__=STRICT, **_options), None),
}
Block: Any = create_model("Block", __config__=STRICT, **_section, scales=(_several(str), None))
Scale: Any = create_model("Scale", __config__=STRICT, **_section, tuned=(str, None))
File: Any = create_model("File", __base__=Scale, name=(str, None), description=(str, None),
                         block=(list[Block], None), scale=(dict[str, Scale], None))  # fmt: skip


@dataclass
class _Reader:
    path: Path
    found: dict[str, None] = field(default_factory=dict)  # the mistakes, each once, in the order of the file
    lost: set[str] = field(default_factory=set)  # keys of which something was wrong, and is not there any more

    def wrong(self, path: tuple, text: object) -> None:
        block = path[:1] == ("block",) and len(path) > 1
        parts = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in path[2 * block :])
        location = ", ".join(filter(None, (f"block {path[1] + 1}" if block else "", parts[1:])))
        self.found[f"{self.path}: {location + ': ' if location else ''}{text}"] = None

    def made(self, where: tuple, make: Callable, *given, **named) -> Any:
        """What `make` makes; None if it refuses, which is a mistake at `where`."""
        try:
            return make(*given, **named)
        except UserError as error:
            self.wrong(where, error)


def load(path: Path, scale: str | None = None, pack: int | None = None) -> Plan:
    """The plan of a sweep file at one of its scales (None: its first). `pack` overrides the file's. Raises `UserError`:
    one for the whole file, a line for each mistake, before anything is run."""
    reader = _Reader(Path(path))
    try:
        data = tomllib.loads(reader.path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    file = _checked(reader, data)
    scales = tuple(file.get("scale", ()))
    if scale is not None and scale not in scales:
        raise unknown("scale", scale, scales or ["(the file has none)"], where=str(path))
    plans = [_plan(reader, file, name, pack) for name in scales or (None,)]
    if found := list(reader.found):
        listing = "".join(f"\n  {line}" for line in found)
        raise UserError(f"{len(found)} mistake{'s' * (len(found) > 1)} in {path}, nothing was started{listing}")
    chosen = next(plan for plan in plans if scale in (None, plan.scale))
    if not chosen.cells:
        raise UserError(f"{path} plans no run{f' at scale {chosen.scale}' * bool(scales)}: give families and learners")
    return chosen


def _checked(reader: _Reader, data: dict) -> dict:
    """The file with every sound value: it can still be put together, and its mistakes be told in the same message."""
    try:
        file = File.model_validate(data).model_dump(exclude_unset=True)
    except ValidationError as error:
        found = [(_inside(data, where), text) for where, text in mistakes(File, error)]
        for where, text in found:
            reader.wrong(where, text)
        for *above, last in sorted({where for where, _ in found}, reverse=True):  # of a list, the last items first
            reader.lost.add(next((part for part in (last, *reversed(above)) if isinstance(part, str)), ""))
            del functools.reduce(operator.getitem, above, data)[last]
        return _checked(reader, data)
    sections = {(): file} | {("block", i): block for i, block in enumerate(file.get("block", ()))}
    sections |= {("scale", name): scale for name, scale in file.get("scale", {}).items()}
    learners = {name for section in sections.values() for name in section.get("learners", ())}
    for where, section in sections.items():
        for name in section.get("scales", ()):
            reader.made((*where, "scales"), known, "scale", name, file.get("scale") or ["(the file has none)"])
        for name in section.get("options", ()):
            if name not in learners and "learners" not in reader.lost:
                reader.wrong((*where, "options", name), f"options for {name}, which no run of this file uses")
    return file


def _inside(data: Any, path: tuple) -> tuple:
    """As much of pydantic's path as the data have: a value that stands for a list of one has no item [0]."""
    for i, part in enumerate(path):
        if part not in (data if isinstance(data, dict) else range(len(data) if isinstance(data, list) else 0)):
            return path[:i]
        data = data[part]
    return path


def _plan(reader: _Reader, file: dict, scale: str | None, pack: int | None) -> Plan:
    """What the file plans at one scale, in its order; a run that is asked for twice is run once."""
    cells, merged, total, scales = {}, 0, 0, file.get("scale", {})
    own = scales.get(scale, {})
    level, section = (("scale", scale), own) if "tuned" in own else ((), file)
    tuned = reader.made((*level, "tuned"), _tuned, reader.path.parent, section.get("tuned")) or {}
    for i, block in enumerate(file.get("block") or [{}]):
        wanted = [name for name in block.get("scales", ()) if name in scales]
        if wanted and scale not in wanted:
            continue
        where = ("block", i) if file.get("block") else ()
        for spec, stack in _runs(reader, [file, own, block], where, tuned):
            total += 1
            if total > MOST_RUNS:
                reader.wrong(where, f"more than {MOST_RUNS:,} runs; split the sweep")
                return Plan("", scale, (), ())
            if stack == "auto":  # a rule that no machine's core count enters
                stack = max(1, STACK // spec.train_tasks)
            runs, _ = cells.setdefault(replace(spec, seed=0).key, ({}, pack or stack))
            merged += spec.seed in runs
            runs.setdefault(spec.seed, spec)
    found = tuple(Cell(tuple(runs[seed] for seed in sorted(runs)), stack) for runs, stack in cells.values())
    return Plan(file.get("name", reader.path.stem), scale, tuple(scales), found, merged)


def _tuned(folder: Path, name: str | None) -> dict[str, dict]:
    """What tuning chose for each learner, from a JSON file relative to the sweep file's folder: grids of one point."""
    sections = {}
    try:
        chosen = json.loads((folder / name).read_text())["chosen"] if name is not None else {}
        for one, found in chosen.items():
            learner(one, **found["options"])
            Settings(**found["settings"])
            options, settings = ({k: [v] for k, v in found[part].items()} for part in ("options", "settings"))
            sections[one] = {"settings": settings, "options": {one: options}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"tuned = {name!r} cannot be used ({why}); name a file of `choose.py`") from error
    return sections


def _runs(reader: _Reader, layers: list[dict], where: tuple, tuned: dict) -> Iterator[tuple[RunSpec, int | str]]:
    """The runs of one block; later layers override earlier ones, option by option."""
    found: dict[str, Any] = {"preset": "modern", "train_tasks": None, "seeds": [0], "pack": "auto"}
    found |= {key: value for section in layers for key, value in section.items()}
    for key, table in (("families", FAMILIES), ("learners", LEARNERS)):
        if key not in found and key not in reader.lost:
            reader.wrong(where, f"no {key} are given; choose from: {', '.join(table)}")
    for name, rival in itertools.product(found.get("families", ()), found.get("learners", ())):
        task_family = reader.made(where, family, name, found["preset"], train=found["train_tasks"])
        if task_family is None:
            continue
        sections = [tuned.get(rival, {}), *layers]
        sound = [options for options in _points(s.get("options", {}).get(rival, {}) for s in sections)
                 if reader.made(where, _started, task_family, rival, options)]  # fmt: skip
        for values in _points(s.get("settings", {}) for s in sections):
            if settings := reader.made(where, Settings, **values):
                for options, seed in itertools.product(sound, found["seeds"]):
                    spec = RunSpec(name, rival, seed, found["preset"], found["train_tasks"], options, settings)
                    yield spec, found["pack"]


def _points(tables: Iterable[dict[str, list]]) -> Iterator[dict]:
    """Every combination of the values in `tables`, of which later ones override earlier ones."""
    axes = {name: values for table in tables for name, values in table.items()}
    return (dict(zip(axes, values)) for values in itertools.product(*axes.values()))


def _started(task_family: TaskFamily, name: str, values: dict) -> object:
    """The learner with these options; what it refuses about this family, it refuses here."""
    chosen, tasks = learner(name, **values), len(task_family.train_tasks)
    agent = new_agent([0], chosen.policies(tasks), task_family.observation_size + chosen.context_size(tasks),
                      task_family.action_size, hidden=(1,), learning_rate=1e-3, discount=0.9, polyak=0.1)  # fmt: skip
    try:
        chosen.start(agent, tasks)
    except UserError as error:
        raise UserError(f"{error} (family {task_family.name})") from None
    return chosen
