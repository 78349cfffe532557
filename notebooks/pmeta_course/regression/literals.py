"""Python literals in and out: parameters as text, as source code, and as strict JSON; nothing changes its type.

A literal is None, a bool, int, float (inf and nan too), complex, text or bytes, and any tuple, list, set or dict of
literals, nested.
"""

import ast
import cmath
import contextlib
import json
import math
from typing import Any

from pmeta_lib.files import json_text

SCALARS = (type(None), bool, int, float, complex, str, bytes)
NOT_FINITE = {"inf": math.inf, "Infinity": math.inf, "nan": math.nan, "NaN": math.nan}


class _NotFinite(ast.NodeTransformer):
    """`inf`, `math.nan`, `np.inf`, `float("inf")`, `complex(inf, 0)` as the numbers that they are."""

    def visit(self, node):
        match node:
            case ast.Name(name) | ast.Attribute(ast.Name("math" | "np" | "numpy" | "torch"), name):
                return ast.Constant(NOT_FINITE[name]) if name in NOT_FINITE else node
            case ast.Call(ast.Name("float" | "complex" as maker), args, []):
                return ast.Constant({"float": float, "complex": complex}[maker](*map(evaluate, args)))
        return self.generic_visit(node)


def evaluate(source: str | ast.expr) -> Any:
    """The value of a literal, given as text or as a syntax tree. Raises ValueError for anything else."""
    try:
        tree = ast.parse(source.strip(), mode="eval").body if isinstance(source, str) else source
        return ast.literal_eval(_NotFinite().visit(tree))
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:  # too deep, or a set of lists
        raise ValueError(f"no Python literal: {error}") from error


def source(value: Any, ordered: bool = False) -> str:
    """The source code of a literal, or ValueError for what is none. ordered: dicts (sets always) by their items' code,
    so that equal values look equal."""
    if isinstance(value, complex) and not cmath.isfinite(value):
        return f"complex({source(value.real)}, {source(value.imag)})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, SCALARS):
        return repr(value)
    if type(value) is dict:
        items = [f"{source(k, ordered)}: {source(v, ordered)}" for k, v in value.items()]
        return "{" + ", ".join(sorted(items) if ordered else items) + "}"
    if type(value) in (tuple, list, set):
        items = [source(v, ordered) for v in value]
        if type(value) is set:
            return "{" + ", ".join(sorted(items)) + "}" if items else "set()"
        return f"({', '.join(items)}{',' * (len(items) == 1)})" if type(value) is tuple else f"[{', '.join(items)}]"
    raise ValueError(f"a {type(value).__name__} is no Python literal")


def same(a: object, b: object) -> bool:
    """Whether two literals are equal in value and type: 1 is not 1.0, (1, 2) is not [1, 2], nan is nan."""
    return source(a, ordered=True) == source(b, ordered=True)


def to_json(value: object) -> object:
    """A literal as strict JSON: itself where JSON keeps its value and type, else {"literal": its source code}."""
    ambiguous = isinstance(value, dict) and value.keys() == {"literal"}
    with contextlib.suppress(TypeError):  # JSON has no such thing
        if not ambiguous and same(json.loads(json_text(value)), value):
            return value
    return {"literal": source(value)}


def from_json(value: object) -> object:
    """The inverse of `to_json`."""
    return evaluate(value["literal"]) if isinstance(value, dict) and value.keys() == {"literal"} else value
