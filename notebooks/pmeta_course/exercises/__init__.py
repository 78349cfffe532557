"""Exercises: `check(name, answer)` says at once whether an answer is right and, if not, what is wrong.

A checker is a plain function `answer -> None | str`: None means correct, a text is the diagnosis. One
module a part of the course holds them, in a dict `EXERCISES` from the exercise's name ("04.2") to it.
An unsolved exercise (`...`, None, or a function that still raises NotImplementedError) is "not yet".
"""

import importlib
import pkgutil

from pmeta_lib.files import known


def exercises() -> dict:
    """All checkers by name, e.g. "04.2"."""
    found = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "checkers"):
        found |= importlib.import_module(f"{__name__}.{module}").EXERCISES
    return found


def judge(name: str, answer: object) -> tuple[str, str]:
    """(status, diagnosis) of `answer` to exercise `name`; status: correct | wrong | not yet."""
    checkers = exercises()
    known("exercise", name, checkers)
    if answer is ... or answer is None:
        return "not yet", "Fill in the cell above, then run this one again."
    try:
        diagnosis = checkers[name](answer)
    except NotImplementedError:
        return "not yet", "Replace `raise NotImplementedError` by your code."
    except SystemExit:
        diagnosis = "your code called `exit`, which ends the program; a function ends with `return`"
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything; it is reported, not hidden
        diagnosis = f"your code raised {type(error).__name__}: {error}"
    return ("correct", "") if diagnosis is None else ("wrong", diagnosis)


def check(name: str, answer: object) -> bool:
    """Check `answer` to exercise `name`, print one line, return True if it is right."""
    status, text = judge(name, answer)
    print({"correct": f"✔ {name}: correct.", "wrong": f"✘ {name}: {text}"}.get(status, f"○ {name}: not yet. {text}"))
    return status == "correct"
