"""A run of the course as a terminal table, JUnit XML and one HTML page."""

import base64
import dataclasses
import html as escape
import math
import re
import xml.etree.ElementTree as ET

from pmeta_course.regression.compare import Row
from pmeta_course.regression.structure import figures


def describe(row: Row) -> str:
    """Why a value is flagged, in a few words."""
    if row.status == "differs":
        far = f"{row.away:.3g} tolerances away" if math.isfinite(row.away) else "not the same"
        return f"{row.old} -> {row.new}, {far}"
    return f"{row.status}: {row.detail}" if row.detail else row.status


def diff(rows: list[Row]) -> str:
    """The table that --bless shows: old, new, tolerance, how many tolerances away."""
    head = ["value", "old", "new", "tolerance", "away", "what"]
    return grid([head, *(cells(dataclasses.asdict(r)) for r in rows)])


def cells(row: dict) -> list[str]:
    """One line of a table of values; `row` as the summary holds it."""
    away = "" if row["away"] is None else f"{row['away']:.3g}"
    return [row["name"], row["old"], row["new"], row["tolerance"], away, f"{row['status']} {row['detail']}"]


def grid(lines: list[list[str]]) -> str:
    """Columns of equal width."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def table(session) -> str:
    """The final summary on the terminal."""
    lines = [["notebook", "result", "seconds", "recorded", "values"]]
    notes = []
    for r in session.finished:
        kept = session.recorded.get(r.name)
        same = sum(row.ok for row in r.rows)
        compared = r.rows and any(session.expectations.values())
        values = f"{same}/{len(r.rows)} agree" if compared else f"{len(r.values)} recorded" if r.values else ""
        word = "passed" if r.status == "passed" else r.reason if r.status == "failed" else r.status
        before = f"{kept:.1f} (x {r.seconds / kept:.1f})" if kept else ""
        lines.append([r.name, word, f"{r.seconds:.1f}", before, values])
        if r.status == "failed":
            tail = "".join(f"\n      | {line}" for line in r.tail.splitlines())
            notes.append(f"✘ {r.name}: {r.reason}: {r.message}{tail}")
            notes += [f"  {r.name}: {p}" for p in r.problems]
        notes += [f"! {r.name}: {w}" for w in r.warnings]
        moved = [row.name for row in r.rows if row.status == "moved"]
        notes += [f"! {r.name}: moved within its band: {', '.join(moved)}"] if moved else []
    bad = sum(r.status != "passed" for r in session.finished)
    verdict = f"{bad} of {len(session.finished)} did not pass" if bad else f"all {len(session.finished)} passed"
    where = f"executed notebooks, summary.json, report.html: {session.out}"
    return "\n".join(["", grid(lines), "", *notes, *([""] if notes else []), verdict, where])


def junit(summary: dict) -> str:
    """JUnit XML: a test suite a notebook; one case for its execution, one a recorded value."""
    root = ET.Element("testsuites", name=f"course {summary['profile']}", time=str(summary["seconds"]))
    for n in summary["notebooks"]:
        suite = ET.SubElement(root, "testsuite", name=n["name"], time=f"{n['seconds']:.2f}")
        case = ET.SubElement(suite, "testcase", classname=n["name"], name="run", time=f"{n['seconds']:.2f}")
        if n["status"] == "failed":
            node = ET.SubElement(case, "failure", type=n["reason"], message=_xml(n["message"]))
            node.text = _xml("\n".join([*n["problems"], n["cell_source"], n["tail"]]))
        elif n["status"] == "not run":
            ET.SubElement(case, "skipped", message=_xml(n["message"]))
        if n["warnings"]:
            ET.SubElement(case, "system-out").text = _xml("\n".join(n["warnings"]))
        for row in n["rows"] if n["status"] != "not run" else []:
            case = ET.SubElement(suite, "testcase", classname=n["name"], name=f"value {_xml(row['name'])}", time="0")
            text = _xml(f"{row['old']} -> {row['new']}; tolerance {row['tolerance']}; {row['detail']}")
            if row["status"] not in ("same", "moved") and summary["compare"] == "strict":
                ET.SubElement(case, "failure", type=row["status"], message=text)
            elif row["status"] not in ("same", "moved"):
                ET.SubElement(case, "system-out").text = text
        failures, skipped = (len(suite.findall(f"testcase/{what}")) for what in ("failure", "skipped"))
        counts = {"tests": len(suite), "failures": failures, "errors": 0, "skipped": skipped}
        suite.attrib |= {what: str(number) for what, number in counts.items()}
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """Only the characters that XML 1.0 allows."""
    return re.sub("[^\\t\\n\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", "", text)


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .7rem;text-align:left}
td{border-top:1px solid #ddd}pre{background:#f5f5f5;padding:.7rem;overflow-x:auto}
.passed{color:#05603a}.failed{color:#b42318;font-weight:600}.warn{color:#8a5a00}
figure{display:inline-block;margin:.5rem;max-width:46%}img{max-width:100%;border:1px solid #ddd}
figcaption{font-size:.85rem}"""


def html(summary: dict, session) -> str:
    """One page that needs no network: results, failing cells, values, figures beside the expected ones."""
    e, results = escape.escape, {r.name: r for r in session.finished}
    bad = sum(n["status"] != "passed" for n in summary["notebooks"])
    verdict = f"{bad} of {len(summary['notebooks'])} notebooks did not pass" if bad else "all notebooks passed"
    versions = e(", ".join(f"{k} {v}" for k, v in summary["versions"].items()))
    rows, sections = [], []
    for n in summary["notebooks"]:
        same = sum(r["status"] in ("same", "moved") for r in n["rows"])
        recorded, name = n["recorded_seconds"], e(n["name"])
        values = f"{same}/{len(n['rows'])} agree" if n["rows"] else len(n["values"])
        rows.append(f'<tr><td><a href="#{name}">{name}</a><td class="{e(n["status"])}">{e(n["reason"] or n["status"])}'
                    f"<td>{n['seconds']:.1f}<td>{f'{recorded:.1f}' if recorded else ''}<td>{values}</tr>")  # fmt: skip
        sections.append(f'<h2 id="{name}">{name}</h2>')
        failures = [f"{n['reason']}: {n['message']}"] * bool(n["message"]) + n["problems"]
        for kind, texts in (("failed", failures), ("warn", n["warnings"])):
            sections += [f'<p class="{kind}">{e(text)}</p>' for text in texts]
        if n["cell"]:
            sections.append(f"<h3>Cell {n['cell']}</h3><pre>{e(n['cell_source'])}</pre><pre>{e(n['tail'])}</pre>")
        if n["rows"]:
            sections.append("<table><tr><th>value<th>expected<th>now<th>tolerance<th>tolerances away<th></tr>")
            for r in n["rows"]:
                kind = "passed" if r["status"] in ("same", "moved") else "failed"
                sections.append(f'<tr class="{kind}">' + "".join(f"<td>{e(c)}" for c in cells(r)) + "</tr>")
            sections.append("</table>")
        sections += _figures(results[n["name"]], session)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>course: {verdict}</title>
<style>{_STYLE}</style>
<h1>Course, profile {e(summary["profile"])}: {verdict}</h1>
<p>{e(summary["started"])}, {summary["seconds"]:.0f} s, {summary["workers"]} at a time; {versions}</p>
<table><tr><th>notebook<th>result<th>seconds<th>recorded<th>values</tr>
""" + "\n".join([*rows, "</table>", *sections, ""])


def _figures(result, session) -> list[str]:
    """The figures of this run, each beside the one that the notebook is stored with."""
    stored, out = figures(session.sources[result.name], look=False), []
    for k, figure in enumerate(result.figures, 1):
        beside = [old for old in stored if old["id"] == figure["id"]][:1]
        for label, f in (("now", figure), *(("as stored", old) for old in beside)):
            source, blank = base64.b64encode(f["png"]).decode(), " — blank" * bool(f.get("blank"))
            out.append(f'<figure><img src="data:image/png;base64,{source}" alt="figure {k}, {label}">'
                       f"<figcaption>figure {k}, cell {f['cell']}, {label}{blank}</figcaption></figure>")  # fmt: skip
        stored = [old for old in stored if not beside or old is not beside[0]]
    return out
