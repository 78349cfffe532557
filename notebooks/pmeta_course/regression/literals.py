"""Python literals in and out: parameters as text, as source code, and as strict JSON; nothing changes its type.

A literal is None, a bool, int, float (inf and nan too), complex, text or bytes, and any tuple, list, set or dict of
literals, nested.
"""

import ast
import math
from typing import Any

SCALARS = (type(None), bool, int, float, complex, str, bytes)
NOT_FINITE = {"inf": math.inf, "Infinity": math.inf, "nan": math.nan, "NaN": math.nan}


class _NotFinite(ast.NodeTransformer):
    """`inf`, `math.nan`, `np.inf`, `float("inf")`, `complex(inf, 0)` as the numbers that they are."""

    def visit_Name(self, node):
        return ast.Constant(NOT_FINITE[node.id]) if node.id in NOT_FINITE else node

    def visit_Attribute(self, node):
        known = isinstance(node.value, ast.Name) and node.value.id in ("math", "np", "numpy", "torch")
        return ast.Constant(NOT_FINITE[node.attr]) if known and node.attr in NOT_FINITE else node

    def visit_Call(self, node):
        makers = {"float": float, "complex": complex}
        if isinstance(node.func, ast.Name) and node.func.id in makers and not node.keywords:
            return ast.Constant(makers[node.func.id](*(evaluate(a) for a in node.args)))
        return node


def evaluate(source: str | ast.expr) -> object:
    """The value of a literal, given as text or as a syntax tree. Raises ValueError for anything else."""
    try:
        tree = ast.parse(source.strip(), mode="eval").body if isinstance(source, str) else source
        return ast.literal_eval(_NotFinite().visit(tree))
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:  # too deep, or a set of lists
        raise ValueError(f"no Python literal: {error}") from error


def source(value: Any, ordered: bool = False) -> str:
    """The source code of a literal. ordered: sets and dicts by their items' code, so that equal values look equal.

    Raises ValueError for what is no literal.
    """
    if isinstance(value, SCALARS):
        if isinstance(value, complex):
            return f"complex({source(value.real)}, {source(value.imag)})" if _odd(value) else repr(value)
        return f"float('{value}')" if isinstance(value, float) and not math.isfinite(value) else repr(value)
    if type(value) is dict:
        items = [f"{source(k, ordered)}: {source(v, ordered)}" for k, v in value.items()]
        return "{" + ", ".join(sorted(items) if ordered else items) + "}"
    if type(value) in (tuple, list, set):
        items = [source(v, ordered) for v in value]
        if type(value) is set:
            return "{" + ", ".join(sorted(items)) + "}" if items else "set()"
        return f"({', '.join(items)}{',' * (len(items) == 1)})" if type(value) is tuple else f"[{', '.join(items)}]"
    raise ValueError(f"a {type(value).__name__} is no Python literal")


def _odd(value: complex) -> bool:
    return not (math.isfinite(value.real) and math.isfinite(value.imag))


def same(a: object, b: object) -> bool:
    """Whether two literals are equal in value and type: 1 is not 1.0, (1, 2) is not [1, 2], nan is nan."""
    return source(a, ordered=True) == source(b, ordered=True)


def to_json(value: object) -> object:
    """A literal as strict JSON: itself where JSON keeps its type, else {"literal": its source code}."""
    return value if _plain(value) else {"literal": source(value)}


def from_json(value: object) -> object:
    """The inverse of `to_json`."""
    return evaluate(value["literal"]) if isinstance(value, dict) and value.keys() == {"literal"} else value


def _plain(value: object) -> bool:
    if type(value) is list:
        return all(map(_plain, value))
    if type(value) is dict:
        return value.keys() != {"literal"} and all(type(k) is str and _plain(v) for k, v in value.items())
    return type(value) in (type(None), bool, int, str) or (type(value) is float and math.isfinite(value))
