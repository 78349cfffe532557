"""How an exercise is checked: the answer runs on fresh inputs, and the mistake that it shows is named.

`function(right, probes, mistakes)` compares a learner's function with the right one on every probe (a
tuple of inputs); `value(right, mistakes)` compares a number or an array; `choice(right, wrong)` explains
each wrong option. A mistake is a text and what that mistake would have given, computed on the same inputs:
it is named only if it fits on all of them. Each returns a checker `answer -> None | diagnosis`.
"""

import copy
from collections.abc import Callable

import numpy as np

RTOL = 1e-7


def _parts(result: object, names: tuple[str, ...]) -> tuple:
    """A result as one part a name; a tuple or a list serves where several parts, or an array, are asked for."""
    if len(names) == 1:
        return (list(result),) if isinstance(result, tuple) else (result,)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _same(got: tuple, other: tuple) -> bool:
    return len(got) == len(other) and all(
        np.shape(g) == np.shape(o) and np.allclose(g, o, rtol=RTOL, atol=1e-9) for g, o in zip(got, other)
    )


def _form(got: tuple, right: tuple, names: tuple[str, ...]) -> str | None:
    """What is wrong with number, type, shape or finiteness of the parts of a result, before any value."""
    if len(got) != len(right):
        return f"expected {len(right)} results ({', '.join(names)}), got {len(got)}"
    for g, r, name in zip(got, right, names):
        if g is None or g is ...:
            return f"{name} is missing: does your function `return` it?"
        try:
            array = np.asarray(g, dtype=float)
        except (TypeError, ValueError):
            return f"{name} must be made of numbers, not {type(g).__name__}"
        if array.shape != np.shape(r):
            turned = array.ndim > 1 and array.T.shape == np.shape(r)
            hint = "; is it transposed?" if turned else ""
            return f"{name} has shape {array.shape}, it should have {np.shape(r)}{hint}"
        if not np.isfinite(array).all():
            return f"{name} is not finite: is there a division by zero or an overflow?"
    return None


def _diagnose(got: list[tuple], right: list[tuple], mistakes: dict[str, list[tuple]], names) -> str | None:
    """None if all probes agree; else the best description of the difference."""
    for g, r in zip(got, right):
        if (text := _form(g, r, names)) is not None:
            return text
    if all(_same(g, r) for g, r in zip(got, right)):
        return None
    for text, wrong in mistakes.items():
        if all(_same(g, w) for g, w in zip(got, wrong)):
            return text
    flat = [np.concatenate([np.ravel(p).astype(float) for probe in side for p in probe]) for side in (got, right)]
    if np.allclose(flat[0], -flat[1], rtol=RTOL, atol=1e-9):
        return "the sign is wrong everywhere, the size is right"
    used = np.abs(flat[1]) > 1e-12
    ratio = flat[0][used] / flat[1][used]
    if flat[1].size > 1 and ratio.size > 1 and np.allclose(ratio, ratio[0], rtol=1e-6) and (flat[0][~used] == 0).all():
        return f"all values are off by the same factor, {ratio[0]:.4g}"
    wrong = [k for k in range(len(got)) if not _same(got[k], right[k])]
    bad = [n for n, g, r in zip(names, got[wrong[0]], right[wrong[0]]) if not _same((g,), (r,))]
    where = "on every test input" if len(wrong) == len(got) else f"on {len(wrong)} of {len(got)} test inputs"
    return f"shape and type are right, the values of {' and '.join(bad)} are not, {where}"


def function(right: Callable, probes: list[tuple], mistakes: dict[str, Callable], names=("the result",)) -> Callable:
    """A checker for a function: called on copies of every probe and compared with `right`."""

    def checker(answer: object) -> str | None:
        if not callable(answer):
            return f"expected a function, got {type(answer).__name__}"
        got = []
        for probe in probes:
            given = copy.deepcopy(probe)
            got.append(_parts(answer(*given), names))
            arrays = [(a, b) for a, b in zip(given, probe) if isinstance(a, np.ndarray)]
            if any(not np.array_equal(a, b) for a, b in arrays):
                return "your function changes the array it was given; work on a copy (`y = y + …`, not `y += …`)"
        expected = [_parts(right(*copy.deepcopy(p)), names) for p in probes]
        wrong = {text: [_parts(f(*copy.deepcopy(p)), names) for p in probes] for text, f in mistakes.items()}
        return _diagnose(got, expected, wrong, names)

    return checker


def value(right: Callable, mistakes: dict[str, Callable], name: str = "the result") -> Callable:
    """A checker for a number or an array that the learner has worked out by hand."""

    def checker(answer: object) -> str | None:
        if callable(answer):
            return "expected a value, got a function"
        wrong = {text: [(f(),)] for text, f in mistakes.items()}
        return _diagnose([(answer,)], [(right(),)], wrong, (name,))

    return checker


def choice(right: object, wrong: dict) -> Callable:
    """A checker for one of several options; every wrong one is explained."""

    def checker(answer: object) -> str | None:
        answer = answer.strip().lower() if isinstance(answer, str) else answer
        if isinstance(answer, bool) or (answer != right and answer not in wrong):
            return f"answer with one of {', '.join(repr(a) for a in sorted([right, *wrong]))}"
        return None if answer == right else wrong[answer]

    checker.options = sorted([right, *wrong])  # for whoever shows the question as a form
    return checker
