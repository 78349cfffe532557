"""What a sweep runs: a TOML file becomes a list of cells, or one error that lists every mistake with its line.

The keys at the top hold for all runs; a `[[block]]` is a grid of its own (families x learners x options x settings x
seeds) that inherits and overrides them; a `[scale.NAME]` overrides the top when it is chosen. `docs/sweeps.md`
explains the language.
"""

import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from pmeta_lib.envs.families import FAMILIES, PRESETS, family
from pmeta_lib.experiments.learners import LEARNERS, learner
from pmeta_lib.experiments.spec import RunSpec, make_settings
from pmeta_lib.experiments.toml_lines import line_of, positions
from pmeta_lib.files import UserError, unknown
from pmeta_lib.sac.agent import new_agent
from pmeta_lib.sac.settings import Settings

COMMON = ("families", "learners", "preset", "train_tasks", "seeds", "pack", "settings", "options")
TOP, BLOCK = ("name", "description", "tuned", *COMMON, "block", "scale"), (*COMMON, "scales")
SETTINGS = tuple(f.name for f in fields(Settings))
LOOSE = {"steps": 10**12, "warm_up": 0, "evaluations": 1}  # so that a setting can be judged apart from the others
MOST_RUNS = 100_000
STACK = 16  # policies stacked by `pack = "auto"`; beyond, a seed more costs as much as a run of its own


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but their seed, and how many of them are stacked in one process."""

    runs: tuple[RunSpec, ...]
    pack: int


@dataclass(frozen=True)
class Plan:
    """All that a sweep is to run. `scales`: those the file has; `merged`: runs that two blocks ask for."""

    name: str
    scale: str | None
    scales: tuple[str, ...]
    cells: tuple[Cell, ...]
    merged: int = 0

    @property
    def runs(self) -> list[RunSpec]:
        return [spec for cell in self.cells for spec in cell.runs]


@dataclass
class _Reader:
    file: str
    data: dict
    lines: dict
    scale: str | None = None
    mistakes: dict = field(default_factory=dict)  # (line, text): ordered, each once
    tuned: dict = field(default_factory=dict)  # learner -> {"settings": …, "options": …}, below all that the file says
    tuned_at: tuple = ("tuned",)  # the place in the file that names them

    def wrong(self, path: tuple, error: Exception | str) -> None:
        self.mistakes[line_of(self.lines, path), str(error)] = None


def load(path: Path, scale: str | None = None, pack: int | None = None) -> Plan:
    """The plan of a sweep file at one of its scales (None: its first). `pack` overrides the file's.

    Raises `UserError`: one for the whole file, a line for each mistake, before anything is run.
    """
    try:
        text = Path(path).read_text()
        data = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    reader = _Reader(str(path), data, positions(text))
    _check(reader)
    scales = tuple(data["scale"]) if isinstance(data.get("scale"), dict) else ()
    if scale is not None and scale not in scales:
        raise unknown("scale", scale, scales or ["(the file has none)"], where=str(path))
    plans = {name: _expand(reader, name, pack) for name in (scales or (None,))}
    if reader.mistakes:
        found = sorted(reader.mistakes)
        listing = "\n".join(f"  {path}:{line}: {text}" for line, text in found)
        raise UserError(f"{len(found)} mistake{'s' * (len(found) > 1)} in {path}, nothing was started\n{listing}")
    chosen = scale or next(iter(plans))
    cells, merged = plans[chosen]
    if not cells:
        raise UserError(f"{path} plans no run{f' at scale {chosen}' if chosen else ''}: give families and learners")
    return Plan(data.get("name", Path(path).stem), chosen, scales, tuple(cells), merged)


def _tuned(reader: _Reader, scale: str | None) -> tuple[dict, tuple]:
    """What tuning chose for each learner, and where the file says so: a JSON file, named relative to the sweep file,
    for all scales or, in a scale's own section, for that one."""
    where = ("scale", scale, "tuned") if "tuned" in reader.data.get("scale", {}).get(scale, {}) else ("tuned",)
    name = (reader.data["scale"][scale] if len(where) > 1 else reader.data).get("tuned")
    if name is None:
        return {}, where
    try:
        chosen = json.loads((Path(reader.file).parent / name).read_text())["chosen"]
        for one, found in chosen.items():
            learner(one, **found["options"])
            make_settings(found["settings"])
        return chosen, where
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = getattr(error, "strerror", None) or error
        reader.wrong(where, f"tuned = {name!r} cannot be used ({why}); name a file of `choose.py`")
        return {}, where


# ------------------------------------------------------------------------------- every value on its own
def _check(reader: _Reader) -> None:
    data = reader.data
    _check_section(reader, (), data, TOP)
    for key in ("name", "description"):
        if not isinstance(data.get(key, ""), str):
            reader.wrong((key,), f"{key} must be text")
    for key, kind, form in (("block", list, "[[block]]"), ("scale", dict, "[scale.NAME]")):
        entries = data.get(key, kind())
        items = (
            enumerate(entries) if isinstance(entries, list) else entries.items() if isinstance(entries, dict) else ()
        )
        if not isinstance(entries, kind) or not all(isinstance(x, dict) for _, x in items):
            reader.wrong((key,), f"{key} must be written {form}")
            data[key] = kind()
    for i, block in enumerate(data.get("block", ())):
        _check_section(reader, ("block", i), block, BLOCK)
        asked, known = _as_list(block.get("scales", [])), data.get("scale", {})
        block["scales"] = [name for name in asked if name in known]
        for j, name in enumerate(asked):
            if name not in known:
                reader.wrong(("block", i, "scales", j), unknown("scale", name, known or ["(the file has none)"]))
    for name, section in data.get("scale", {}).items():
        _check_section(reader, ("scale", name), section, ("tuned", *COMMON))
    asked = {str(x) for _, part in _sections(data) for x in _as_list(part.get("learners", []))}
    for path, part in _sections(data):
        for name in part["options"] if isinstance(part.get("options"), dict) else ():
            if name in LEARNERS and name not in asked:
                reader.wrong((*path, "options", name), f"options for {name}, which no run of this file uses")


def _sections(data: dict) -> Iterator[tuple[tuple, dict]]:
    yield (), data
    yield from ((("block", i), block) for i, block in enumerate(data.get("block", ())))
    yield from ((("scale", name), section) for name, section in data.get("scale", {}).items())


def _check_section(reader: _Reader, path: tuple, section: dict, known: tuple) -> None:
    """Check the values of one section, and drop what is wrong, so that the rest can still be put together."""
    for key in [k for k in section if k not in known]:
        reader.wrong((*path, key), unknown("key", key, known))
    for key, kind, choices in (("families", "family", FAMILIES), ("learners", "learner", LEARNERS)):
        if key in section:
            section[key] = _check_names(reader, (*path, key), section[key], kind, choices)
    if "preset" in section and section["preset"] not in PRESETS:
        reader.wrong((*path, "preset"), unknown("preset", section.pop("preset"), PRESETS))
    if "seeds" in section:
        section["seeds"] = _seeds(reader, (*path, "seeds"), section["seeds"])
    for key, text in (("pack", ' or "auto"'), ("train_tasks", "")):
        value = section.get(key, 1)
        if not (_is_count(value) or (text and value == "auto")):
            reader.wrong((*path, key), f"{key} is {section.pop(key)!r}; give a whole number above 0{text}")
    for key in ("settings", "options"):
        if not isinstance(section.get(key, {}), dict):
            reader.wrong((*path, key), f"{key} must be a table, e.g. {key} = {{ … }}")
            del section[key]
    section["settings"] = _check_grid(
        reader, (*path, "settings"), section.get("settings", {}), SETTINGS, "setting",
        lambda key, value: make_settings(LOOSE | {key: value}),
    )  # fmt: skip
    options = section.get("options", {})
    for name in list(options):
        place = (*path, "options", name)
        if name not in LEARNERS:
            reader.wrong(place, unknown("learner", name, LEARNERS))
        elif not isinstance(options[name], dict):
            reader.wrong(place, f"options of {name} must be a table, e.g. options.{name} = {{ … }}")
        else:
            known = [f.name for f in fields(learner(name))] or ["(it has none)"]
            options[name] = _check_grid(
                reader, place, options[name], known, f"option of learner {name}",
                lambda key, value, name=name: learner(name, **{key: value}),
            )  # fmt: skip
            continue
        del options[name]


def _check_names(reader: _Reader, path: tuple, value, kind: str, choices: Iterable[str]) -> list[str]:
    good = []
    for i, name in enumerate(_as_list(value)):
        if not isinstance(name, str) or name not in choices:
            reader.wrong((*path, i), unknown(kind, name, choices))
        elif name in good:
            reader.wrong((*path, i), f"{kind} {name!r} stands there twice")
        else:
            good.append(name)
    if value == []:
        reader.wrong(path, f"{path[-1]} is empty; choose from: {', '.join(choices)}")
    return good


def _seeds(reader: _Reader, path: tuple, value) -> list[int]:
    """[0, 1, 5], "0-9", or a list of both."""
    seeds: list[int] = []
    if isinstance(value, int) or value == []:
        reader.wrong(path, f'seeds is {value!r}; give a list [0, 1, 2] or a range "0-9", both ends included')
        return seeds
    for i, part in enumerate(_as_list(value)):
        ends = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part) if isinstance(part, str) else None
        if _is_count(part) or (part == 0 and part is not False):
            new = [part]
        elif ends and 0 <= int(ends[2]) - int(ends[1]) < MOST_RUNS:
            new = list(range(int(ends[1]), int(ends[2]) + 1))
        else:
            reader.wrong((*path, i), f'seed {part!r}: give a whole number of 0 or more, or a range "0-9"')
            continue
        if twice := sorted(set(new) & set(seeds)):
            reader.wrong((*path, i), f"seed {', '.join(map(str, twice[:5]))} stands there twice")
        seeds += [s for s in new if s not in seeds]
    return seeds


def _check_grid(reader: _Reader, path: tuple, table: dict, known: Iterable[str], kind: str, make) -> dict:
    """{name: list of values, all sound on their own}: the axes of a grid."""
    axes = {}
    for key, value in table.items():
        place = (*path, key)
        if key not in known:
            reader.wrong(place, unknown(kind, key, known))
            continue
        nested = isinstance(value, list) and (key != "hidden" or any(isinstance(v, list) for v in value))
        if nested and not value:
            reader.wrong(place, f"{kind} {key} is an empty list; give a value or a list of values")
        for i, v in enumerate(value if nested else [value]):
            try:
                if isinstance(v, float) and not math.isfinite(v):
                    raise UserError(f"{kind} {key} is {v}; it must be finite")
                make(key, v)
            except (UserError, TypeError) as error:
                text = f"{kind} {key} is {v!r}, which is not of its type" if isinstance(error, TypeError) else error
                reader.wrong((*place, i) if nested else place, text)
            else:
                axes.setdefault(key, []).append(v)
    return axes


# ------------------------------------------------------------------------------------- and all together
def _expand(reader: _Reader, scale: str | None, pack: int | None) -> tuple[list[Cell], int]:
    """The cells of one scale, in the file's order, and how many runs were asked for twice."""
    data, cells, packs, merged, total = reader.data, {}, {}, 0, 0
    reader.tuned, reader.tuned_at = _tuned(reader, scale)
    base = [((), data)] + ([(("scale", scale), data["scale"][scale])] if scale is not None else [])
    blocks = data.get("block") or [{}]
    for i, block in enumerate(blocks):
        if scale is not None and scale not in (block.get("scales") or [scale]):
            continue
        layers = [*base, (("block", i), block)] if data.get("block") else base
        for spec, stack in _grid(reader, layers, ("block", i)):
            total += 1
            if total > MOST_RUNS:
                reader.wrong(("block", i), f"more than {MOST_RUNS:,} runs; split the sweep")
                return [], 0
            cell, key = replace(spec, seed=0).key, spec.seed
            merged += key in cells.setdefault(cell, {})
            cells[cell].setdefault(key, spec)
            packs.setdefault(cell, pack or stack)
    out = []
    for cell, runs in cells.items():
        ordered = tuple(runs[seed] for seed in sorted(runs))
        out.append(Cell(ordered, auto_pack(ordered[0]) if packs[cell] == "auto" else packs[cell]))
    return out, merged


def auto_pack(spec: RunSpec) -> int:
    """How many seeds to stack: up to `STACK` policies in all, a rule that no machine's core count enters."""
    return max(1, STACK // len(spec.make_family().train_tasks))


def _grid(reader: _Reader, layers: list, where: tuple) -> Iterator[tuple[RunSpec, int | str]]:
    """The runs of one block; later layers override earlier ones."""
    found, axes, options = {}, {}, {}
    for path, part in layers:
        found |= {k: (part[k], (*path, k)) for k in COMMON[:-2] if k in part}
        axes |= {k: (v, (*path, "settings", k)) for k, v in part.get("settings", {}).items()}
        for name, table in part.get("options", {}).items():
            options.setdefault(name, {}).update({k: (v, (*path, "options", name, k)) for k, v in table.items()})
    for key, choices in (("families", FAMILIES), ("learners", LEARNERS)):
        if key not in found:
            reader.wrong(where, f"no {key} are given; choose from: {', '.join(choices)}")
    families, learners = (found.get(k, ([], ()))[0] for k in ("families", "learners"))
    preset, count = found.get("preset", ("modern",))[0], found.get("train_tasks", (None,))[0]
    places = []
    for i, name in enumerate(families):
        try:
            places.append(family(name, preset, train=count))
        except UserError as error:
            blame = "train_tasks" if count and "count" in str(error) else "families"
            reader.wrong((*found[blame][1], i) if blame == "families" else found[blame][1], error)
    for place, name in itertools.product(places, learners):
        sound, tuned = [], reader.tuned.get(name, {"settings": {}, "options": {}})
        below = {part: {k: ([v], reader.tuned_at) for k, v in tuned[part].items()} for part in tuned}
        all_settings = list(_combine(reader, below["settings"] | axes, where, make_settings))
        make = lambda values, name=name: learner(name, **values)  # noqa: E731
        for values in _combine(reader, below["options"] | options.get(name, {}), where, make):
            try:
                chosen, tasks = learner(name, **values), len(place.train_tasks)
                size = place.observation_size + chosen.context_size(tasks)
                agent = new_agent([0], chosen.policies(tasks), size, place.action_size, hidden=(1,),
                                  learning_rate=1e-3, discount=0.9, polyak=0.1)  # fmt: skip
                chosen.start(agent, tasks)  # what a learner refuses about this family, it refuses here
                sound.append(values)
            except UserError as error:
                reader.wrong(_blame(options.get(name, {}), error, where), f"{error} (family {place.name})")
        for values, settings in itertools.product(sound, all_settings):
            for seed in found.get("seeds", ([0],))[0]:
                yield (
                    RunSpec(place.name, name, seed, preset, count, values, make_settings(settings)),
                    (found.get("pack", ("auto",))[0]),
                )


def _combine(reader: _Reader, axes: dict, where: tuple, make) -> Iterator[dict]:
    """The sound combinations of {name: (values, path)}."""
    for values in itertools.product(*(v for v, _ in axes.values())):
        chosen = dict(zip(axes, values))
        try:
            make(chosen)
        except UserError as error:
            found = [error]
            for pair in itertools.combinations(chosen.items(), 2):  # an error a pair, since `make` stops at its first
                try:
                    make((LOOSE if make is make_settings else {}) | dict(pair))
                except UserError as smaller:
                    found = [e for e in found if e is not error] + [smaller]
            for each in found:
                reader.wrong(_blame(axes, each, where), each)
        else:
            yield chosen


def _blame(axes: dict, error: UserError, where: tuple) -> tuple:
    """The path of the value that the message speaks of."""
    named = [(str(error).find(name), path) for name, (_, path) in axes.items() if name in str(error)]
    return min(named)[1] if named else where


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
