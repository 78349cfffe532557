"""examples:
pmeta report                        the verdict on every claim, from data/results
pmeta report --verify               exit code 1 if claims.json, a table or a stored file differs from the raw results
pmeta report --json my.json         the claims and scores, to a file
pmeta report --update-readme        also rewrite the tables of README.md and the docs
make report                         all of data/claims.json, the tables, the figures and the checksums
"""

import argparse
import importlib
import json
from pathlib import Path

from pmeta_lib.files import UserError, json_text, sha256, write_atomically, writing

SEALED = ("results", "tuning")  # the folders of data/ that runs write


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
    from pmeta_course.reproduction import claims, judging, scores  # PyTorch, which `--help` need not wait for

    if args.verify and (args.json or args.update_readme or args.figures or args.checksums):
        raise UserError("--verify writes nothing; leave out --json, --update-readme, --figures and --checksums")
    ledger = claims.ledger(args.data / "results")
    first = args.data / "claims_v1.json"  # what version 1 said is history: kept, not computed
    with scores.reading(str(first)):
        ledger["v1"] = json.loads(first.read_text())["claims"] if first.exists() else []
    for claim in ledger["claims"]:
        print(f"{claim['id']}  {claim['verdict'].upper()}: {claim['claim']}")
        for part in claim["parts"]:
            print(f"      {part['scale']:<6} {part['verdict']:<25} {part['name']}  {judging.evidence(part)}")
    if args.verify:
        problems = differences(args.data, ledger)
        print("\n".join(f"DIFFERS  {p}" for p in problems) or "verified: every number follows from the raw results")
        return int(bool(problems))
    if args.json:
        with writing(args.json, "give another --json"):
            write_atomically(args.json, (json_text(ledger, indent=1) + "\n").encode())
    with writing(args.figures or args.data, "make it writable, or name another folder"):
        for page in _pages().PAGES if args.update_readme else ():
            path = args.data.resolve().parent / page
            write_atomically(path, _pages().rendered(path, ledger).encode())
        if args.figures:
            from pmeta_course.reproduction import plots  # matplotlib is slow to load

            args.figures.mkdir(parents=True, exist_ok=True)
            plots.draw_all(args.data / "results", args.figures)
        if args.checksums:
            write_atomically(args.data / "SHA256SUMS", checksums(args.data).encode())
    return 0


def _pages():
    """What the pages of this repository show of a ledger: a script beside them, so in a clone only."""
    try:
        return importlib.import_module("report_pages")
    except ModuleNotFoundError:
        raise UserError("--verify and --update-readme need a clone of the repository; run them there") from None


def differences(data: Path, ledger: dict) -> list[str]:
    """What in `data/claims.json`, the pages and `data/SHA256SUMS` does not follow from the raw results."""
    pages, found = _pages(), []
    try:
        found += unequal(json.loads((data / "claims.json").read_text()), ledger, "claims.json")
        for page in pages.PAGES:
            path = data.resolve().parent / page
            fresh = pages.rendered(path, ledger)
            if path.read_text() != fresh:
                found.append(f"{page}: a table or a number is not that of the data; run make report")
            odd = pages.strays(fresh, pages.CHECKED[page])
            found += [f"{page}: {word} is a number that nothing computes" for word in odd]
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
    return "".join(f"{sha256(p)}  {p.relative_to(data).as_posix()}\n" for p in files)
