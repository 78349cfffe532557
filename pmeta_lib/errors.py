"""The one error that a user's mistake raises: its text says what, where and how to mend it."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. The command line prints its text as one line and exits with code 2."""


def unknown(kind: str, name: object, choices: Iterable[str], where: str = "") -> UserError:
    """The error for a `name` that is not among `choices`; names the nearest one, then all of them."""
    choices = [str(c) for c in choices]
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f" in {where}" if where else ""
    return UserError(f"unknown {kind} {str(name)!r}{place}.{hint} Choose from: {', '.join(choices)}.")
