"""The program inside the sandbox: runs a student's cells and calls the student's answers; it judges nothing.

It speaks with the grader over one socket, a JSON object a line, and is started by path, so that nothing of
the course is imported before `check` is replaced. Whatever the student's code does to this process, all it can
send are *values*; the right answers and the verdict stay with the grader, outside.
"""

import builtins
import contextlib
import json
import os
import shutil
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

LONGEST = 20_000_000  # bytes of one message
DTYPES = {"b": "bool", "i": "int64", "u": "int64", "f": "float64"}


class Channel:
    """Messages over a connected socket. Raises EOFError at its end, ValueError for what is no message."""

    def __init__(self, link: socket.socket):
        self.link, self.rest = link, b""

    def send(self, **message) -> None:
        data = json.dumps(message).encode() + b"\n"  # noqa: TID251 - without pmeta_lib
        if len(data) > LONGEST:
            raise ValueError(f"a message of {len(data) / 1e6:.0f} MB")
        self.link.sendall(data)

    def receive(self) -> dict:
        parts = [self.rest]
        while b"\n" not in parts[-1]:
            if sum(map(len, parts)) > LONGEST:
                raise ValueError("a message without end")
            parts.append(self.link.recv(1 << 20))
            if not parts[-1]:
                raise EOFError("the channel was closed")
        line, _, self.rest = b"".join(parts).partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        return message


def plain(value: Any) -> Any:
    """`value` without its library, as a message can hold it: None, numbers, texts, functions, arrays of numbers, lists
    and tuples of these. Complex numbers and what else is unknown stay as they are."""
    if callable(value):
        return value
    if hasattr(value, "detach"):  # a torch tensor, wherever it lives
        value = value.detach().cpu().numpy()
    if hasattr(value, "to_numpy"):  # of pandas
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in DTYPES:
        return np.asarray(value, DTYPES[value.dtype.kind])
    if hasattr(value, "tolist"):  # a NumPy scalar; an array of texts, objects, complex numbers
        value = value.tolist()
    if isinstance(value, tuple | list):
        return (tuple if type(value) is tuple else list)(map(plain, value))
    known = not hasattr(value, "__float__") or isinstance(value, bool | int | float)
    return value if known else float(value)  # Fraction, Decimal, long double


def encode(value: object, functions: list) -> list:
    """`value` as JSON: [kind, payload]. A function is appended to `functions` and sent as its position there."""
    value = plain(value)
    if value is ...:
        return ["ellipsis", None]
    if value is None or isinstance(value, bool | int | float | str):
        return ["plain", value]
    if isinstance(value, tuple | list):
        return [type(value).__name__, [encode(v, functions) for v in value]]
    if callable(value):
        functions.append(value)
        return ["function", len(functions) - 1]
    if isinstance(value, np.ndarray):
        return ["array", [list(value.shape), DTYPES[value.dtype.kind], value.ravel().tolist()]]
    return ["other", type(value).__name__]


def decode(message: Any, call: Callable | None) -> Any:
    """The inverse of `encode`; a function becomes one that calls `call(position, arguments)`."""
    kind, payload = message
    if kind == "plain" and (payload is None or isinstance(payload, bool | int | float | str)):
        return payload
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(decode(m, call) for m in payload)
    if kind == "array" and payload[1] in DTYPES.values():
        return np.array(payload[2], dtype=payload[1]).reshape(payload[0])
    if kind == "function":
        return lambda *arguments: call(payload, arguments)
    if kind == "other":  # only its name is of use: in a diagnosis
        return type(str(payload) if str(payload).isidentifier() else "object", (), {})()
    if kind == "ellipsis":
        return ...
    raise ValueError(f"a value of an unknown kind: {kind!r}")


def raised(name: object, text: object) -> BaseException:
    """An exception of the other side, to be raised on this one."""
    if name in ("NotImplementedError", "SystemExit"):
        return getattr(builtins, name)(text)
    return type(str(name) if str(name).isidentifier() else "Exception", (Exception,), {})(text)


def confine(limits: dict, user: int | None) -> None:
    """Give up root if there is a `user` to become, then limit this process and all that it starts."""
    import resource

    import psutil

    if user is not None:  # root is exempt from the limit on processes
        os.setgroups([])
        try:
            os.setgid(user)
            os.setuid(user)
        except OSError:  # a container that maps few ids
            os.setgid(65534)
            os.setuid(65534)
    mine = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine += process.num_threads() if process.uids().real == os.getuid() else 0
    values = {
        "RLIMIT_CPU": limits["seconds"], "RLIMIT_AS": limits["memory"], "RLIMIT_FSIZE": limits["file"],
        "RLIMIT_NPROC": mine + limits["processes"], "RLIMIT_CORE": 0,
    }  # fmt: skip
    for name, value in values.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system has each of them
            hard = resource.getrlimit(getattr(resource, name))[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, value))


def _call(channel: Channel, answer: Callable, encoded: list) -> dict:
    """Call the student's function; functions among its arguments are called back in the grader."""

    def back(position: int, arguments: tuple) -> object:
        channel.send(back=[position, encode(list(arguments), [])])
        reply = channel.receive()
        if "raised" in reply:
            raise raised(*reply["raised"])
        return decode(reply["value"], back)

    arguments = decode(encoded, back)
    try:
        return {"value": encode(answer(*arguments), []), "arguments": encode(arguments, [])}
    except BaseException as error:  # noqa: BLE001 - also SystemExit: the student's code may raise anything
        return {"raised": [type(error).__name__, str(error)[:500]]}


def main() -> None:
    """Serve until the grader closes the channel."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    orders = channel.receive()
    confine(orders["limits"], orders["user"])
    if orders["copy"]:
        shutil.copytree(orders["copy"], orders["folder"], dirs_exist_ok=True)
    os.chdir(orders["folder"])
    sys.path[:1] = [orders["folder"], *orders["library"]]
    substitute = types.ModuleType("pmeta_course.exercises")
    substitute.__dict__["check"] = lambda name, answer: print(f"{name}: handed in; it is graded outside")
    sys.modules[substitute.__name__] = substitute

    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    answer: Any = ...
    channel.send(ready=True)
    while True:
        try:
            order = channel.receive()
        except EOFError:
            os._exit(0)
        if "run" in order:
            result = shell.run_cell(order["run"], store_history=True)
            error = result.error_before_exec or result.error_in_exec
            channel.send(error=f"{type(error).__name__}: {str(error)[:300]}" if error else None)
        elif "answer" in order:
            missing = "answer" not in shell.user_ns
            answer = shell.user_ns.pop("answer", ...)  # an earlier answer must not stand for a later one
            channel.send(value=encode(answer, []), missing=missing)
        elif "call" in order:
            channel.send(**_call(channel, answer, order["call"]))


if __name__ == "__main__":
    main()
