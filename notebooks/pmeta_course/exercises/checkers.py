"""How an exercise is checked: the answer runs on fresh inputs, and the mistake that it shows is named.

`function(right, probes, mistakes, *names)` compares a learner's function with the right one on every probe (a tuple of
inputs), result by result (their names); `value(right, mistakes, name)` compares a number or an array that was worked
out by hand; `choice(right, wrong)` explains each wrong option. A mistake is a text and what that mistake gives, on the
same inputs: it is named only if it fits on all of them. Each returns a checker `answer -> None | diagnosis`.

An answer may be rounded to four digits or four decimals, and come as a number, list, tuple, NumPy array, torch tensor
or pandas table. Probes hold the edges: ties, zeros, whole numbers, the point where a formula divides by nothing; and no
argument is the same in all of them.
"""

import copy
import re
from collections.abc import Callable

import numpy as np

from pmeta_course.grading.sandboxed import plain  # so that `pmeta check`, which sends answers, judges the same

DIGITS, DECIMALS = 5.001e-4, 5.001e-5  # how far rounding to four digits, or to four decimals, may move a number
BEFORE, AFTER = r"[\s#\"'`*(\[:=]*", r"[\s\"'`*)\].:;,]*"  # a choice; no sign, which might deny it
OPTION = re.compile(  # "6", "line no. 6", "6.0"; "C", " (c) ", "answer: c"; "c) and its text", if that names no other
    rf"{BEFORE}(?:(?:line|option|answer|letter|number|no\.){BEFORE})*"
    rf"(?:(\d+)(?:\.0+)?{AFTER}|([a-z]){AFTER}(?:(?<=[).:])\s(?!.*\b(?:[b-d]\b|a\))).*)?)",
    re.DOTALL,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, the same for the same seed."""
    return np.random.default_rng(seed).normal(size=shape)


def _parts(result: object, names: tuple[str, ...], right: tuple = ()) -> tuple:
    """A result as one part a name; a tuple, a list or an array whose rows look like the `right` parts is several."""
    result = plain(result)
    if isinstance(result, np.ndarray) and right and result.shape == (len(names), *np.shape(right[0])):
        result = result.tolist()
    return tuple(result) if len(names) > 1 and isinstance(result, tuple | list) else (result,)


def _leaves(part: object) -> list:
    """What nested lists and tuples are made of."""
    return [leaf for x in part for leaf in _leaves(x)] if isinstance(part, tuple | list) else [part]


def _close(got: object, other: object) -> bool:
    """Equal to four digits or four decimals: to four digits of each number, not of the largest."""
    g, o = np.asarray(got, float), np.asarray(other, float)
    size = 10.0 ** np.floor(np.log10(np.maximum(np.abs(o), 1e-12)))
    if g.shape != o.shape:
        return False
    with np.errstate(invalid="ignore"):  # inf - inf; a mistake's NaN is recognised by the answer's NaN
        near = (np.abs(g - o) <= np.maximum(DIGITS * size, DECIMALS)) | (g == o) | (np.isnan(g) & np.isnan(o))
    return bool(near.all())


def _same(got: tuple, other: tuple) -> bool:
    return len(got) == len(other) and all(map(_close, got, other))


def _form(got: tuple, right: tuple, names: tuple[str, ...], whole: bool) -> str | None:
    """What is wrong with number, type, shape or finiteness of the parts of a result, before any value."""
    if len(got) != len(right):
        return f"expected {len(right)} results ({', '.join(names)}), got {len(got)}"
    for g, r, name in zip(got, right, names):
        if g is None or g is ...:
            return f"{name} is missing: does your function `return` it?"
        if strange := [type(x).__name__ for x in _leaves(g) if not isinstance(x, int | float | np.ndarray)]:
            return f"{name} must be made of real numbers, not {strange[0]}"
        try:
            array = np.asarray(g, dtype=float)
        except ValueError:
            return f"{name} has rows of unequal lengths"
        if array.shape != np.shape(r):
            hint = "; is it transposed?" if array.ndim > 1 and array.T.shape == np.shape(r) else ""
            return f"{name} has shape {array.shape}, it should have {np.shape(r)}{hint}"
        if not np.isfinite(array).all():
            return f"{name} is not finite: is there a division by zero or an overflow?"
        if whole and np.asarray(g).dtype.kind not in "iu":
            return f"{name} must be an integer (`int`), not {type(g).__name__}"
    return None


def _diagnose(got: list[tuple], right: list[tuple], mistakes: dict[str, list[tuple]], names, whole=False) -> str | None:
    """None if all probes agree; else the best description of the difference."""
    forms = [text for g, r in zip(got, right) if (text := _form(g, r, names, whole)) is not None]
    if not forms and all(_same(g, r) for g, r in zip(got, right)):
        return None
    if not any("finite" not in text and "integer" not in text for text in forms):
        for text, given in mistakes.items():
            if all(_same(g, w) for g, w in zip(got, given)):
                return text
    if forms:
        return forms[0]
    flat = [np.concatenate([np.ravel(p).astype(float) for probe in side for p in probe]) for side in (got, right)]
    if np.allclose(flat[0], -flat[1], rtol=DIGITS, atol=DECIMALS):
        return "the sign is wrong everywhere, the size is right"
    if np.allclose(flat[0], flat[1], rtol=0.02, atol=0.006):
        return "close, but not right to four digits: is something rounded on the way?"
    used = np.abs(flat[1]) > 1e-12
    ratio = flat[0][used] / flat[1][used]
    if flat[1].size > 1 and ratio.size > 1 and np.allclose(ratio, ratio[0], rtol=1e-6) and (flat[0][~used] == 0).all():
        return f"all values are off by the same factor, {ratio[0]:.4g}"
    wrong = [k for k in range(len(got)) if not _same(got[k], right[k])]
    bad = [n for n, g, r in zip(names, got[wrong[0]], right[wrong[0]]) if not _same((g,), (r,))]
    where = "on every test input" if len(wrong) == len(got) else f"on {len(wrong)} of {len(got)} test inputs"
    edge = ": is every argument used, and are the edges right (zeros, ties, whole numbers, other lengths)?"
    edge = "" if len(wrong) == len(got) else edge
    return f"shape and type are right, the values of {' and '.join(bad)} are not, {where}{edge}"


def function(right: Callable, probes: list[tuple], mistakes: Callable, *names: str, whole: bool = False) -> Callable:
    """A checker for a function, called on copies of every probe; `mistakes`, called on a probe, gives text -> what that
    mistake gives there; `whole` asks for an int."""

    def checker(answer: object) -> str | None:
        if not callable(answer):
            return f"expected a function, got {type(answer).__name__}"
        with np.errstate(all="ignore"):  # a mistake may divide by zero at an edge; that is what makes it one
            expected = [_parts(right(*copy.deepcopy(p)), names) for p in probes]
            usual = [mistakes(*copy.deepcopy(p)) for p in probes]
        wrong = {text: [_parts(results[text], names) for results in usual] for text in usual[0]}
        got: list[tuple] = []
        for probe, parts in zip(probes, expected):
            given = copy.deepcopy(probe)
            try:
                got.append(_parts(answer(*given), names, parts))
            except Exception:
                if named := _diagnose(got, expected[: len(got)], wrong, names, whole):
                    return named  # a mistake seen before says more than the error that it leads to
                raise
            arrays = [(a, b) for a, b in zip(given, probe) if isinstance(a, np.ndarray)]
            if any(not np.array_equal(a, b) for a, b in arrays):
                return "your function changes the array it was given; work on a copy (`y = y + …`, not `y += …`)"
        return _diagnose(got, expected, wrong, names, whole)

    return checker


def value(right: object, mistakes: dict[str, object], name: str) -> Callable:
    """A checker for a number or an array."""

    def checker(answer: object) -> str | None:
        if callable(answer):
            return "expected a value, got a function"
        wrong = {text: [(result,)] for text, result in mistakes.items()}
        return _diagnose([_parts(answer, (name,))], [(right,)], wrong, (name,))

    return checker


def _option(answer: object, number: bool) -> object:
    """What was chosen, as a letter or a number; also from a list or an array that holds nothing else."""
    answer = plain(answer)
    answer = answer.tolist() if isinstance(answer, np.ndarray) else answer
    while isinstance(answer, tuple | list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, str) and (words := OPTION.fullmatch(answer.lower()[:500])):
        return int(words[1]) if number and words[1] else words[1] or words[2]
    return int(answer) if isinstance(answer, float) and answer.is_integer() else answer


def choice(right: object, wrong: dict) -> Callable:
    """A checker for one of several options; every wrong one is explained."""

    options = sorted([right, *wrong])

    def checker(answer: object) -> str | None:
        chosen = _option(answer, isinstance(right, int))
        if isinstance(chosen, bool) or not any(type(chosen) is type(o) and chosen == o for o in options):
            return f"answer with one of {', '.join(map(repr, options))}"
        return None if chosen == right else wrong[chosen]

    vars(checker)["options"] = options  # for whoever shows the question as a form
    return checker
