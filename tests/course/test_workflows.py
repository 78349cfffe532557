"""The workflows watch a branch that exists and call the command line as it is."""

import argparse
import re
import shlex
from pathlib import Path

import yaml
from pmeta_course.regression import command

ROOT = Path(__file__).parents[2]
WORKFLOWS = {p.stem: yaml.safe_load(p.read_text()) for p in (ROOT / ".github" / "workflows").glob("*.yml")}


def test_ci_runs_the_test_command_on_the_main_branch():
    on = WORKFLOWS["ci"][True]  # YAML reads the key `on` as true
    assert on["push"]["branches"] == on["pull_request"]["branches"] == ["main"]
    assert {"run": "make test"} in WORKFLOWS["ci"]["jobs"]["test"]["steps"]


def test_every_call_of_the_course_in_workflows_and_docs_parses():
    texts = [str(s.get("run", "")) for w in WORKFLOWS.values() for j in w["jobs"].values() for s in j["steps"]]
    texts += (ROOT / "docs" / "notebook_regression.md").read_text().splitlines() + command.__doc__.splitlines()
    calls = [m.group(1) for t in texts if (m := re.match(r"\s*pmeta course\b(.*)", t))]
    assert len(calls) >= 10
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.configure(parser)
    for call in calls:
        words = shlex.split(re.split(r"\s{3,}|\s#", re.sub(r"\$\{\{.*?\}\}", "smoke", call))[0])
        parser.parse_args(words)
