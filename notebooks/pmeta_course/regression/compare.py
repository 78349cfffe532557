"""Values worth keeping: recorded in a notebook, compared with `data/expected/<profile>/<notebook>.json`.

`record` works in any Jupyter: without the runner it only checks its arguments. Under `pmeta course` each call appends
one JSON line to the file named by PMETA_RECORD_FILE. An *exact* value must agree within `atol + rtol |old|`, element by
element; a *stochastic* one must lie in a band derived from runs with several seeds, which is stored with the band.
"""

import contextlib
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pmeta_course.regression.literals import from_json, same
from pmeta_lib.files import UserError, json_text, known, strict, write_atomically, writing

KINDS = ("exact", "stochastic")
RECORD_FILE = "PMETA_RECORD_FILE"
MAX_NUMBERS, MAX_TEXT = 10_000, 1_000
CONFIDENCE = 0.999  # of the prediction interval for one more seed: rare enough for hundreds of values a run
RULE = f"mean ± t(n-1) sd sqrt(1 + 1/n), a {CONFIDENCE:.1%} prediction interval, widened by atol + rtol |mean|"


def record(name: str, value: object, rtol: float = 1e-6, atol: float = 1e-12, kind: str = "exact") -> None:
    """Keep `value` under `name` for the regression; prints nothing.

    value: a number, an array, (nested) list or torch tensor of numbers, a DataFrame or Series, a short text.
    kind: "exact" (same numbers on every machine up to rtol, atol) or "stochastic" (varies with the seed).
    Raises UserError for anything else, or for more than 10,000 numbers: record a summary instead.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"record: the name must be a text that is not empty, got {name!r}")
    known("kind", kind, KINDS, where=f"record({name!r})")
    if not (rtol >= 0 and atol >= 0 and math.isfinite(rtol + atol)):
        raise UserError(f"record({name!r}): rtol and atol must be finite and not negative, got {rtol}, {atol}")
    entry = encode(value, where=f"record({name!r})") | {"kind": kind, "rtol": float(rtol), "atol": float(atol)}
    if path := os.environ.get(RECORD_FILE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json_text({"name": name, **entry}) + "\n")


def encode(value: Any, where: str = "record") -> dict:
    """`value` as strict JSON: {"type": scalar | array | table | text, …}; not finite numbers become texts."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise UserError(f"{where}: a text of {len(value)} characters; keep it under {MAX_TEXT}")
        return {"type": "text", "value": value}
    if hasattr(value, "to_frame") and not hasattr(value, "columns"):
        value = value.to_frame()
    if hasattr(value, "columns"):
        columns = {str(c): _plain(np.asarray(value[c])) for c in value.columns}
        if len(columns) != len(value.columns):
            raise UserError(f"{where}: two columns of the table have the same name")
        if value.size > MAX_NUMBERS:
            raise UserError(f"{where}: a table of {value.size} entries; record a summary of it instead")
        return {"type": "table", "index": [str(i) for i in value.index], "columns": columns}
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(None)
    with contextlib.suppress(ValueError):  # lists of several lengths
        array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: cannot keep a {type(value).__name__}; give numbers, a DataFrame or a short text")
    if array.size > MAX_NUMBERS:
        raise UserError(f"{where}: an array of {array.size} numbers; record a summary of it instead")
    return {"type": "array" if array.ndim else "scalar", "value": _plain(array)}


def _plain(array: np.ndarray) -> Any:
    """Numbers as strict JSON, anything else as texts."""
    if array.dtype.kind not in "biuf":
        return [str(x) for x in array]
    return strict((array.astype(float) if array.dtype.kind == "f" else array).tolist())


def read_records(path: Path) -> tuple[dict[str, dict], list[str]]:
    """The values a run recorded, by name, and the names that were recorded more than once."""
    values, twice = {}, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # the kernel was killed while it wrote this line
            entry = json.loads(line)
            name = entry.pop("name")
            if name in values:
                twice.append(name)
            values[name] = entry
    return values, twice


@dataclass
class Row:
    """One line of the comparison. `away` is the distance in tolerances (1 = at the edge)."""

    name: str
    status: str  # same | moved | differs | missing | new | shape | not finite | declaration
    old: str = ""
    new: str = ""
    tolerance: str = ""
    away: float | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.status in ("same", "moved")


def _parts(entry: dict) -> dict[str, np.ndarray]:
    """An entry as named arrays: one for a number, a text or an array, one a column for a table."""
    if entry["type"] == "table":
        return {f"[{c}]": _array(v) for c, v in entry["columns"].items()} | {"index": np.array(entry["index"])}
    return {"": np.array(entry["value"]) if entry["type"] == "text" else _array(entry["value"])}


def _array(value: object) -> np.ndarray:
    """Numbers as float, texts (such as "1.0") as they are; "nan" and "inf" among numbers are numbers."""
    array = np.array(value, dtype=object)
    text = any(isinstance(x, str) and x not in ("nan", "inf", "-inf") for x in array.ravel())
    return array.astype(str if text else float)


def short(entry: dict | None) -> str:
    """An entry in a few characters, for tables."""
    if entry is None:
        return "—"
    if entry["type"] == "text":
        return entry["value"][:40]
    if entry["type"] == "table":
        return f"table {len(entry['index'])} x {len(entry['columns'])}"
    array = _array(entry["value"])
    if array.ndim == 0:
        return f"{array:.8g}"
    return f"array {'x'.join(map(str, array.shape))}" + (f", mean {array.mean():.6g}" if array.size else "")


def finite(entry: dict) -> bool:
    """Whether no number of an entry is NaN or infinite."""
    return all(part.dtype.kind == "U" or bool(np.isfinite(part).all()) for part in _parts(entry).values())


def compare(name: str, new: dict | None, old: dict | None) -> Row:
    """Hold one recorded value against the expected one; the tolerance is that of the expectation."""
    row = Row(name, "same", short(old), short(new))
    if new is not None and not finite(new):
        return replace(row, status="not finite", detail="a recorded value is NaN or infinite")
    if new is None:
        return replace(row, status="missing", detail="expected, but not recorded")
    if old is None:
        return replace(row, status="new", detail="recorded, but there is no expectation")
    if new["type"] != old["type"]:
        return replace(row, status="shape", detail=f"was a {old['type']}, is a {new['type']}")
    if changed := [f"{k} was {old[k]}, is {new[k]}" for k in ("kind", "rtol", "atol") if new[k] != old[k]]:
        return replace(row, status="declaration", detail="; ".join(changed))
    new_parts, old_parts = _parts(new), _parts(old)
    if new_parts.keys() != old_parts.keys():
        return replace(row, status="shape", detail=f"columns differ: {sorted(new_parts.keys() ^ old_parts.keys())}")
    row.away, band = 0.0, old.get("band")
    for label, a in new_parts.items():
        b = old_parts[label]
        if a.shape != b.shape:
            return replace(row, status="shape", detail=f"{label} was {b.shape}, is {a.shape}".strip())
        if "U" in (a.dtype.kind, b.dtype.kind):
            if np.array_equal(a.astype(str), b.astype(str)):
                continue
            return replace(row, status="differs", away=math.inf, detail=f"text {label} differs".replace("  ", " "))
        centre, tolerance = b, old["atol"] + old["rtol"] * np.abs(b)
        if band:
            centre, tolerance = np.array(band["mean"][label]), np.array(band["half_width"][label])
        gap = np.abs(a - centre)
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.where(gap == 0, 0.0, gap / tolerance)
        if away.size and away.max() >= row.away:
            worst = np.unravel_index(int(away.argmax()), away.shape)
            row.away, row.tolerance = float(away[worst]), f"{np.broadcast_to(tolerance, a.shape)[worst]:.3g}"
            where = f"{label}{[int(i) for i in worst] if worst else ''}"
            row.detail = f"worst at {where}: {centre[worst]:.8g} -> {a[worst]:.8g}" if where else ""
        if band and row.status == "same" and not np.allclose(a, b, old["rtol"], old["atol"]):
            row.status = "moved"  # inside its band, yet not the number of the same seed: shown, no failure
    return replace(row, status="differs") if row.away > 1 else row


def compare_all(new: dict[str, dict], expected: dict, parameters: dict) -> list[Row]:
    """Every value of a notebook against its expectation file (a dict that may be empty), parameters first."""
    old, rows = expected.get("values", {}), []
    for name, value in expected.get("parameters", {}).items():
        old_value, new_value = from_json(value), from_json(parameters.get(name))
        if name in parameters and not same(old_value, new_value):
            rows.append(Row(f"parameter {name}", "differs", repr(old_value), repr(new_value), "0", math.inf))
    return rows + [compare(name, new.get(name), old.get(name)) for name in [*old, *(n for n in new if n not in old)]]


def derive_band(entries: list[dict], seeds: list[int]) -> dict:
    """The band of a stochastic value from one entry a seed: a prediction interval for one more seed."""
    from scipy.stats import t

    n, first = len(entries), entries[0]
    factor = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * math.sqrt(1 + 1 / n)
    band: dict[str, Any] = {"rule": RULE, "seeds": list(seeds), "factor": factor}
    band |= {"mean": {}, "sd": {}, "half_width": {}}
    for label, part in _parts(first).items():
        if part.dtype.kind == "U":
            continue
        parts = [_parts(e).get(label) for e in entries]
        if any(p is None or p.shape != part.shape for p in parts):
            raise UserError(f"no band can be derived: the shape {label} changes with the seed; record a fixed shape")
        values = np.stack(parts)
        mean, sd = values.mean(0), values.std(0, ddof=1)
        half = factor * sd + first["atol"] + first["rtol"] * np.abs(mean)
        band["mean"][label], band["sd"][label], band["half_width"][label] = (mean.tolist(), sd.tolist(), half.tolist())
        if part.size <= 10:
            band.setdefault("values", {})[label] = values.tolist()
    return band


def load_expected(path: Path) -> dict:
    """The expectation file, or an empty dict if there is none. Raises UserError if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all({"type", "kind", "rtol", "atol"} <= entry.keys() for entry in found["values"].values()):
            raise ValueError("a value without its type, kind or tolerance")
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the expectations {path} cannot be read ({error}): restore the file") from error


def save_expected(path: Path, expected: dict) -> None:
    """Write the expectation file, numbers of an array on one line, so that a diff stays readable."""
    values = expected.get("values", {})
    text = json_text(expected | {"values": dict.fromkeys(values, 0)}, indent=1, ensure_ascii=False)
    for name, entry in values.items():
        key = json_text(name, ensure_ascii=False)
        text = text.replace(f"\n  {key}: 0", f"\n  {key}: {json_text(entry, ensure_ascii=False)}", 1)
    with writing(path, "make it writable and bless again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (text + "\n").encode())


def blessed(
    expected: dict, rows: list[Row], values: dict[str, dict], bands: dict[str, dict], facts: dict, reason: str
) -> dict:
    """The new content of an expectation file. What agrees within its tolerance keeps its old number. facts: whatever
    else belongs in the file (profile, parameters, seconds, versions, figures)."""
    old, kept = expected.get("values", {}), {r.name for r in rows if r.ok}
    new = {n: old[n] if n in kept and n not in bands else v for n, v in values.items()}
    new |= {n: new[n] | {"band": band} for n, band in bands.items()}
    changed = [r.name for r in rows if not r.ok]
    entry = {"date": time.strftime("%Y-%m-%d"), "reason": reason, "changed": changed}
    return expected | facts | {"values": new, "history": [*expected.get("history", []), entry]}
