"""Where each key of a TOML file stands, which `tomllib` does not tell: path -> line, for messages.

The text is known to be valid, `tomllib` having read it; so this only has to keep its place.
"""

import json
import re

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n#]+")


def line_of(lines: dict, path: tuple) -> int:
    """The line of `path`, or of the nearest thing above it that the file has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def positions(text: str) -> dict[tuple, int]:
    """{path: line} of all tables, keys and list entries; a path is a tuple of keys and list indices."""
    lines: dict[tuple, int] = {}
    tables: dict[tuple, int] = {}  # arrays of tables: path -> index of the latest
    at, prefix = _skip(text, 0), ()
    while at < len(text):
        if text[at] == "[":
            double = text.startswith("[[", at)
            start = at
            names, at = _key(text, at + 1 + double)
            prefix = _resolve(names[:-1], tables) + names[-1:]
            for n in range(1, len(prefix)):
                lines.setdefault(prefix[:n], _line(text, start))
            if double:
                tables[prefix] = tables.get(prefix, -1) + 1
                lines.setdefault(prefix, _line(text, start))
                prefix += (tables[prefix],)
            lines.setdefault(prefix, _line(text, start))
            at = text.index("]", at) + 1 + double
        else:
            at = _pair(text, at, prefix, lines)
        at = _skip(text, at)
    return lines


def _resolve(names: tuple, tables: dict) -> tuple:
    path: tuple = ()
    for name in names:
        path += (name,)
        if path in tables:
            path += (tables[path],)
    return path


def _pair(text: str, at: int, prefix: tuple, lines: dict) -> int:
    start = at
    names, at = _key(text, at)
    for n in range(1, len(names) + 1):
        lines.setdefault(prefix + names[:n], _line(text, start))
    return _value(text, _skip(text, text.index("=", at) + 1), prefix + names, lines)


def _key(text: str, at: int) -> tuple[tuple, int]:
    names: tuple = ()
    while True:
        at = _skip(text, at)
        if quoted := _QUOTED.match(text, at):
            raw, at = quoted[0], quoted.end()
            names += (json.loads(raw) if raw[0] == '"' else raw[1:-1],)
        else:
            bare = _BARE.match(text, at)
            names, at = (*names, bare[0]), bare.end()
        at = _skip(text, at)
        if text[at] != ".":
            return names, at
        at += 1


def _value(text: str, at: int, path: tuple, lines: dict) -> int:
    if quoted := _QUOTED.match(text, at):
        return quoted.end()
    if text[at] not in "[{":
        return _SCALAR.match(text, at).end()
    close, at, index = {"[": "]", "{": "}"}[text[at]], _skip(text, at + 1), 0
    while text[at] != close:
        if close == "]":
            lines[*path, index] = _line(text, at)
            at, index = _value(text, at, (*path, index), lines), index + 1
        else:
            at = _pair(text, at, path, lines)
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
    return at + 1


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
