"""examples:
pmeta report                        the verdict on every claim, from data/results
pmeta report --verify               exit code 1 if claims.json, a table or a stored file differs from the raw results
pmeta report --json my.json         the claims and scores, to a file
pmeta report --update-readme        also rewrite the tables of README.md and the docs
make report                         all of data/claims.json, the tables, the figures and the checksums
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

from pmeta_course.reproduction import claims
from pmeta_lib.files import UserError, write_atomically

SEALED = ("results", "tuning")  # the folders of data/ that runs write
PAGES = {
    "README.md": ("claims",),
    "docs/results.md": ("parts", "scores"),
    "docs/findings.md": ("ablations",),
}  # the tables between markers, from claims.json


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `pmeta report`."""
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with results/ (default: data)")
    parser.add_argument("--verify", action="store_true", help="recompute everything and compare; writes nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write claims and scores to FILE")
    parser.add_argument("--update-readme", action="store_true", help="rewrite the tables beside the data folder")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw the figures into DIR")
    parser.add_argument("--checksums", action="store_true", help="seal the stored files: rewrite SHA256SUMS")


def main(args: argparse.Namespace) -> int:
    """Print the verdicts; write or verify what was asked for."""
    if args.verify and (args.json or args.update_readme or args.figures or args.checksums):
        raise UserError("--verify writes nothing; leave out --json, --update-readme, --figures and --checksums")
    ledger = claims.ledger(args.data / "results")
    for claim in ledger["claims"]:
        print(f"{claim['id']}  {claim['verdict'].upper()}: {claim['claim']}")
        for part in claim["parts"]:
            print(f"      {part['judgement']:<8} {part['part']}  {evidence(part)}")
    if args.verify:
        problems = differences(args.data, ledger)
        print("\n".join(f"DIFFERS  {p}" for p in problems) or "verified: every number follows from the raw results")
        return int(bool(problems))
    try:
        if args.json:
            write_atomically(args.json, (json.dumps(ledger, indent=1) + "\n").encode())
        for page in PAGES if args.update_readme else ():
            path = args.data.resolve().parent / page
            write_atomically(path, rendered(path, ledger).encode())
        if args.figures:
            from pmeta_course.reproduction import plots  # matplotlib is slow to load

            args.figures.mkdir(parents=True, exist_ok=True)
            plots.draw_all(args.data / "results", args.figures)
        if args.checksums:
            write_atomically(args.data / "SHA256SUMS", checksums(args.data).encode())
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
    return 0


def differences(data: Path, ledger: dict) -> list[str]:
    """What in `data/claims.json`, the pages and `data/SHA256SUMS` does not follow from the raw results."""
    found = []
    try:
        found += unequal(json.loads((data / "claims.json").read_text()), ledger, "claims.json")
        for page in PAGES:
            path = data.resolve().parent / page
            if path.read_text() != rendered(path, ledger):
                found.append(f"{page}: a table is not that of the data; run make report")
        sealed, there = (data / "SHA256SUMS").read_text().splitlines(), checksums(data).splitlines()
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}; run make report first") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{data / 'claims.json'} is no JSON ({error}); run make report") from error
    changed = {line.split("  ")[1] for line in set(sealed) ^ set(there)}
    return found + [f"{name}: not the file of SHA256SUMS" for name in sorted(changed)]


def unequal(stored: object, fresh: object, where: str) -> list[str]:
    """The places at which two JSON values differ, with both."""
    if isinstance(stored, dict) and isinstance(fresh, dict):
        return [d for k in {**stored, **fresh} for d in unequal(stored.get(k), fresh.get(k), f"{where}.{k}")]
    if isinstance(stored, list) and isinstance(fresh, list) and len(stored) == len(fresh):
        return [d for i, (a, b) in enumerate(zip(stored, fresh)) for d in unequal(a, b, f"{where}[{i}]")]
    return [] if stored == fresh else [f"{where}: stored {stored!r}, recomputed {fresh!r}"]


def checksums(data: Path) -> str:
    """A line a data file in the sealed folders, as `cd data && sha256sum -c SHA256SUMS` reads it; no prose, no code."""
    files = sorted(p for folder in SEALED for p in (data / folder).rglob("*") if p.is_file())
    files = [p for p in files if p.suffix not in (".md", ".py", ".pyc")]
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(data).as_posix()}\n" for p in files)


def rendered(path: Path, ledger: dict) -> str:
    """The page with its tables, between `<!-- NAME -->` and `<!-- end NAME -->`, made from `ledger`."""
    text = path.read_text()
    for name in PAGES[next(page for page in PAGES if path.as_posix().endswith(page))]:
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise UserError(f"{path} must hold {start} and {end} once each; the table of {name} goes between them")
        table = TABLES[name](ledger)
        text = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n\n{table}\n{end}", text, flags=re.DOTALL)  # noqa: B023
    return text


def claims_table(ledger: dict) -> str:
    """Markdown: a row a claim."""
    rows = []
    for c in ledger["claims"]:
        count = {w: sum(p["judgement"] == w for p in c["parts"]) for w in ("met", "not met", "open")}
        words = ", ".join(f"{n} {w}" for w, n in count.items() if n)
        rows.append((c["id"], c["claim"], f"**{c['verdict']}**", words))
    return _markdown(("", "claim", "verdict", "parts of the criterion"), rows)


def parts_table(ledger: dict) -> str:
    """Markdown: a row a part of a criterion."""
    rows = [(c["id"], p["part"], p["judgement"], evidence(p)) for c in ledger["claims"] for p in c["parts"]]
    return _markdown(("", "part of the criterion", "", "evidence, or what lacks"), rows)


def scores_table(ledger: dict) -> str:
    """Markdown: a row a family and learner."""
    rows = []
    for s in ledger["scores"]:
        score = _interval(s.get("score"), s.get("score_low"), s.get("score_high"))
        cost = f"{s['seconds']:.0f}" if "seconds" in s else ""
        rows.append((s["family"], s["tasks"], s["learner"], s.get("seeds", ""), s.get("steps", ""),
                     _interval(s["mean"], s.get("low"), s.get("high"), ".1f"), score, cost))  # fmt: skip
    head = ("family", "tasks", "learner", "seeds", "steps a task", "return", "score", "seconds a run")
    return _markdown(head, rows) + f"\nNot run: {', '.join(ledger['not_run']) or 'nothing'}.\n"


def ablations_table(ledger: dict) -> str:
    """Markdown: a row a family and switch."""
    rows = []
    for r in ledger["ablations"]:
        verdict = "better" if r["low"] > 0 else "worse" if r["high"] < 0 else ""
        difference = _interval(r["difference"], r["low"], r["high"], "+.1f")
        rows.append((r["family"], r["tasks"], f"`{r['switch']}`", difference, r["seeds"], verdict))
    head = ("family", "tasks", "switch", "return minus the default's", "seeds", "interval without 0")
    return _markdown(head, rows) if rows else "Not run.\n"


TABLES = {
    "claims": claims_table,
    "parts": parts_table,
    "scores": scores_table,
    "ablations": ablations_table,
}


def evidence(part: dict) -> str:
    """The numbers of a part of a criterion in words."""
    number = _interval(part["value"], part["low"], part["high"], ".3g")
    shown = [f"{number} (threshold {part['threshold']:g})"] if number else []
    return "; ".join([*shown, *filter(None, [part["n"]]), *(f"lacks {x}" for x in part["lacks"])])


def _interval(value, low=None, high=None, form: str = ".2f") -> str:
    if value is None:
        return ""
    return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None else "")


def _markdown(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
