"""The one error that a user's mistake raises: its text says what, where and how to mend it."""

import difflib
import tempfile
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """A mistake in the input. The command line prints its text as one line and exits with code 2."""


def unknown(kind: str, name: object, choices: Iterable[str], where: str = "") -> UserError:
    """The error for a `name` that is not among `choices`; names the nearest one, then all of them."""
    choices = [str(c) for c in choices]
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f" in {where}" if where else ""
    return UserError(f"unknown {kind} {str(name)!r}{place}.{hint} Choose from: {', '.join(choices)}.")


def writable(folder: Path, option: str) -> None:
    """Make sure that a folder exists and can be written; `option` is what the user gave it with. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"{option} {folder}: this folder cannot be written ({why}); give another {option}") from None
