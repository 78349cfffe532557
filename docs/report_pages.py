"""The pages of the report: tables between markers, and numbers in prose, all made from the ledger."""

import re
from pathlib import Path

from pmeta_course.reproduction.judging import WORDS, interval

from pmeta_lib.files import UserError

PAGES = {
    "README.md": ("claims",),
    "docs/results.md": ("parts", "parts_desk", "parts_v1", "map", "scores"),
    "docs/findings.md": ("ablations",),
    "docs/report.md": ("claims",),
}  # the tables between markers, from claims.json and claims_v1.json
CHECKED = {
    "README.md": "## What came out",
    "docs/results.md": "",
    "docs/findings.md": "",
    "docs/report.md": "",
}  # prose from here to the next ##
FACT = re.compile(r"<!-- = (.*?) -->(.*?)<!-- / -->", re.DOTALL)  # a number in prose, by what it is
NAMES = (  # digits that are no results
    r"<!--.*?-->|`[^`]*`|https?:\S+|arXiv \S+|\[\d\d(?:\d\d\.\d+)?\]\([^)]*\)|\]\([^)]*\)|walker2d|Baselines3"
    r"|\b[CT]\d\b|\b(?:19|20)\d\d\b|\bR (?:=|>) 1\b|\bnotebooks? \d\d(?: (?:and|to) \d\d)?|9[35] %|[Vv]ersion \d"
    r"|\d+ x \d+"
)


def rendered(path: Path, ledger: dict) -> str:
    """The page with its tables, between `<!-- NAME -->` and `<!-- end NAME -->`, and the numbers in its prose, between
    `<!-- = WHAT -->` and `<!-- / -->`, made from `ledger`."""
    text = path.read_text()
    for name in PAGES[next(page for page in PAGES if path.as_posix().endswith(page))]:
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise UserError(f"{path} must hold {start} and {end} once each; the table of {name} goes between them")
        table = TABLES[name](ledger)
        text = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n\n{table}\n{end}", text, flags=re.DOTALL)  # noqa: B023
    return FACT.sub(lambda m: f"<!-- = {m[1]} -->{fact(ledger, m[1], path)}<!-- / -->", text)


def fact(ledger: dict, what: str, path: Path) -> str:
    """One number in prose, with its interval if it has one. `what`: a list of the ledger (or `parts`, of all claims),
    `key=value` pairs that choose its row ("_" for a space), or `name=` and a part's whole name, then the number and its
    format, such as `scores family=ant-dir tasks=train learner=pmeta: mean .0f`."""
    kind, words = what.split(" ", 1)
    words, shown = words.rsplit(": ", 1)
    name, form = shown.split()
    if kind == "parts":
        rows, wanted = [p for c in ledger["claims"] for p in c["parts"]], {"name": words.removeprefix("name=")}
    else:
        rows, wanted = ledger[kind], dict(pair.replace("_", " ").split("=", 1) for pair in words.split())
    rows = [r for r in rows if all(str(r.get(k)) == v for k, v in wanted.items())]
    if len(rows) != 1:
        raise UserError(f"{path}: <!-- = {what} --> names {len(rows)} numbers, not one")
    if rows[0].get(name) is None:
        return "(open)"
    ends = "low high" if name in ("mean", "value", "difference") else f"{name}_low {name}_high"
    values = rows[0][name] if kind == "parts" else [rows[0][name], *(rows[0].get(k) for k in ends.split())]
    return interval(*values, form=form)


def strays(text: str, begin: str) -> list[str]:
    """Words with digits in a page's prose (from the heading `begin` to the next) that no marker accounts for."""
    text = text[text.index(begin) :].split("\n## ")[0] if begin else text
    for name in TABLES:
        text = re.sub(f"<!-- {name} -->.*?<!-- end {name} -->", "", text, flags=re.DOTALL)
    return re.findall(r"\S*\d\S*", re.sub(NAMES, "", FACT.sub("", text), flags=re.DOTALL))


def claims_table(ledger: dict) -> str:
    """Markdown: a row a claim."""
    rows = []
    for c in ledger["claims"]:
        counts = []
        for scale in ("field", "desk"):
            words = [p["verdict"] for p in c["parts"] if p["scale"] in ("any", scale)]
            counts.append(", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(sorted(words, key=WORDS.index))))
        rows.append((c["id"], c["claim"], f"**{c['verdict']}**", counts[0], c["desk_verdict"], counts[1]))
    return _markdown(("", "claim", "verdict (field scale)", "its parts", "at desk scale", "its parts"), rows)


def parts_table(ledger: dict, scales: tuple[str, ...] = ("any", "field")) -> str:
    """Markdown: a row a part of a criterion."""
    rows = []
    for c in ledger["claims"]:
        for p in (p for p in c["parts"] if p["scale"] in scales):
            number = interval(*(p["statistic"] or [None]), form=".3g") + (f", Holm {p['p']:.2g}" if p["p"] else "")
            controls = "; ".join(f"{k} {interval(*v, form='.3g')}" for k, v in p["controls"].items())
            placebos = ", ".join(f"{k} {v[0]:.2g}" for k, v in p["placebos"].items())
            basis = "; ".join(filter(None, [p["n"], *p["lacks"]]))
            rows.append(
                (c["id"], p["name"], number, _short(p["threshold"]), controls, placebos, f"**{p['verdict']}**", basis)
            )
    return _markdown(("", "part", "value", "threshold", "control", "placebos", "verdict", "rests on, or lacks"), rows)


def v1_table(ledger: dict) -> str:
    """Markdown: the parts of version 1 with their verdicts of then."""
    rows = []
    for c in ledger["v1"]:
        for p in c["parts"]:
            number = interval(p["value"], p["low"], p["high"], form=".3g")
            rows.append((c["id"], p["part"], number, _short(p["threshold"]), p["judgement"], p["n"]))
    return _markdown(("", "part of version 1", "value", "threshold", "verdict then", "rested on"), rows)


def map_table(ledger: dict) -> str:
    """Markdown: a row a cell of the map of claim C5."""
    rows = [(r["family"], r["h"], r["steps"], r["seeds"], *(interval(r.get(n), r.get(f"{n}_low"), r.get(f"{n}_high"))
             for n in ("independent", "joint")), r["verdict"]) for r in ledger["map"]]  # fmt: skip
    head = ("family", "h", "steps a task", "seeds", "beats independent", "beats joint", "both")
    return _markdown(head, rows) if rows else "Not run.\n"


def scores_table(ledger: dict) -> str:
    """Markdown: a row a family and learner."""
    rows = []
    for s in ledger["scores"]:
        score = interval(s.get("score"), s.get("score_low"), s.get("score_high"))
        few = interval(s.get("few"), s.get("few_low"), s.get("few_high"), form=".1f")
        marks = " (0 of the scale)" * s.get("zero", False) + " (still rising)" * s.get("rising", False)
        rows.append((s["family"], s["scale"], s["tasks"], s["learner"] + marks, s["seeds"], s.get("steps", ""),
                     interval(s["mean"], s.get("low"), s.get("high"), form=".1f"), score, few,
                     f"{s['seconds']:.0f}" if "seconds" in s else ""))  # fmt: skip
    head = ("family", "scale", "tasks", "learner or placebo", "seeds", "steps a task", "return", "score",
            "episodes 1-20", "seconds a run")  # fmt: skip
    return _markdown(head, rows) + f"\nNot run: {', '.join(ledger['not_run']) or 'nothing'}.\n"


def ablations_table(ledger: dict) -> str:
    """Markdown: a row a family and switch."""
    rows = []
    for r in ledger["ablations"]:
        verdict = "better" if r["low"] > 0 else "worse" if r["high"] < 0 else ""
        difference = interval(r["difference"], r["low"], r["high"], form="+.1f")
        rows.append((r["family"], r["tasks"], f"`{r['switch']}`", difference, r["seeds"], verdict))
    head = ("family", "tasks", "switch", "return minus the default's", "seeds", "interval without 0")
    return _markdown(head, rows) if rows else "Not run.\n"


TABLES = {
    "claims": claims_table,
    "parts": parts_table,
    "parts_desk": lambda ledger: parts_table(ledger, ("desk",)),
    "parts_v1": v1_table,
    "map": map_table,
    "scores": scores_table,
    "ablations": ablations_table,
}


def _short(x: float | None) -> str:
    return "" if x is None else f"{x:g}"


def _markdown(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
