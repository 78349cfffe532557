"""A ladder of two steps: `make check` leaves out the tests that take more than a second, which `slow.txt` lists."""

import os
from pathlib import Path

import pytest

LIST = Path(__file__).parent / "slow.txt"
SECOND = 1.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--find-slow", action="store_true", help="add the tests that took more than a second to slow.txt")


def _name(nodeid: str) -> str:
    """A test without its parameters: they share their fixtures, and mostly their time."""
    return nodeid.split("[")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = tuple(LIST.read_text().split()) if LIST.exists() else ()  # tests, or whole files and folders of them
    for item in items:
        if item.nodeid.startswith(slow):
            item.add_marker("slow")


seconds: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--find-slow") and "PYTEST_XDIST_WORKER" not in os.environ:
        known = set(LIST.read_text().split()) if LIST.exists() else set()
        found = {_name(name) for name, time in seconds.items() if time > SECOND}
        LIST.write_text("\n".join(sorted(known | found)) + "\n")
