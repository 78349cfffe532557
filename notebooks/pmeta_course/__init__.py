"""The course around `pmeta_lib`: what notebooks use is `record` a value and `check` an exercise.

Both are looked up when first asked for, so that the regression runner, which knows no reinforcement learning, can be
imported alone.
"""

import importlib

_HOMES = {"check": "pmeta_course.exercises", "record": "pmeta_course.regression.compare"}
__all__ = ["check", "record"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
