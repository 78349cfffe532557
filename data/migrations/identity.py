"""Bring stored runs up to today's identity: `python data/migrations/identity.py` (a second call changes nothing).

Up to 0.1 a run's record kept only the options that were given, and its key left out those at their default. This fills
in what each run really ran with: the defaults of the commit that made it, which `identity.json` lists, and for options
that came later the value that says what the code did before (`since`, same file). Then `run` and `cell` are computed
anew, in tables, records and the headers of checkpoints. No measured number is touched; `identity.json` holds a
checksum of them by table, taken before, and a test compares.

`python data/migrations/identity.py history` writes the defaults anew, from the code of each commit (needs the history).
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from pmeta_lib.experiments.results import row
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.files import json_text, read_table, write_table

HERE = Path(__file__).resolve().parent
DATA = HERE.parent
FACTS = HERE / "identity.json"
TABLES = [f"results/{name}.parquet" for name in ("ablations", "gym", "mujoco", "mujoco_gpu", "rounding")]
TABLES += ["results/pearl.parquet", "tuning/deep/tuning.parquet"]
TABLES += ["results/policy_gradient.parquet", "results/policy_gradient_field.parquet"]
ADAPTED = [f"results/{name}.parquet" for name in ("adaptation", "adaptation_gpu", "pearl_adaptation")]
ADAPTED += ["results/adaptation_policy_gradient_field.parquet"]
DEEP = ["results/deep/half_cheetah_dir", "results/deep/pendulum_flip"]
POLICY = DATA / "results" / "deep" / "point_robot_rl2_seed0.json"
COMPLETE = {"options": {}, "settings": {}}  # from 0.2 on a run's record has all that existed then
IDENTITY = ("run", "cell", "train_tasks", "options", "settings")  # all that changes
ASK = """
import json
from dataclasses import asdict
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.training import Settings
print(json.dumps({"options": {n: asdict(learner(n)) for n in LEARNERS}, "settings": asdict(Settings())}))
"""


def complete(spec: dict, commit: str, facts: dict) -> dict:
    """The spec of a run that `commit` made, with every option and setting that exists today."""
    then, since = facts["defaults"].get(commit, COMPLETE), facts["since"]
    options = since["options"].get(spec["learner"], {}) | then["options"].get(spec["learner"], {}) | spec["options"]
    settings = since["settings"] | then["settings"] | spec["settings"]
    found = RunSpec.from_json(spec | {"options": options, "settings": settings}).to_json()
    added = set(found["options"]) - set(options) | set(found["settings"]) - set(settings)
    if added:
        raise SystemExit(
            f"{', '.join(sorted(added))}: say in {FACTS.name}, `since`, what the code did before it existed"
        )
    return found


def migrate_table(table: pd.DataFrame, facts: dict) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with complete specs, and old run -> new run."""
    heads = {}
    for old in table.drop_duplicates("run").to_dict("records"):
        spec = {name: old[name] for name in ("family", "learner", "seed", "preset")}
        spec["train_tasks"] = None if pd.isna(old["train_tasks"]) else int(old["train_tasks"])
        spec |= {name: json.loads(old[name]) for name in ("options", "settings")}
        spec = complete(spec, old["commit"], facts)
        made = old | {"run": RunSpec.from_json(spec).key, "family_versions": {"env": "", "base": ""}, "versions": {}}
        heads[old["run"]] = {name: row(spec, made)[name] for name in IDENTITY}
    for name in IDENTITY[1:]:
        table[name] = table["run"].map({key: head[name] for key, head in heads.items()})
    new = {key: head["run"] for key, head in heads.items()}
    return table.assign(run=table["run"].map(new)), new


def numbers(table: pd.DataFrame) -> str:
    """A checksum of all columns that are no part of a run's identity, by content and order of rows."""
    content = hashlib.sha256()
    for name in sorted(set(table) - set(IDENTITY) - {"adaptation"}):
        content.update(f"{name}\n{[None if pd.isna(x) else x for x in table[name].tolist()]}".encode())
    return content.hexdigest()


def history() -> None:
    """The defaults of every commit in the tables, by running that commit's code."""
    commits = {c for name in (*TABLES, *ADAPTED) for c in read_table(DATA / name, ["commit"])["commit"].unique()}
    commits |= {run["commit"] for stem in DEEP for run in json.loads((DATA / f"{stem}.json").read_text())["runs"]}
    found = {}
    for commit in sorted(commits):
        packed = subprocess.run(
            ["git", "archive", commit, "pmeta_lib"], cwd=DATA.parent, check=True, capture_output=True
        )
        with tempfile.TemporaryDirectory() as folder:
            tarfile.open(fileobj=io.BytesIO(packed.stdout)).extractall(folder, filter="data")
            said = subprocess.run([sys.executable, "-c", ASK], cwd=folder, env={"PYTHONPATH": folder}, check=True,
                                  capture_output=True, text=True)  # fmt: skip
        found[commit] = json.loads(said.stdout)
    facts = (
        json.loads(FACTS.read_text()) if FACTS.exists() else {"since": {"options": {}, "settings": {}}, "numbers": {}}
    )
    FACTS.write_text(json_text(facts | {"defaults": found}, indent=1) + "\n")


def main() -> None:
    facts, keys = json.loads(FACTS.read_text()), {}
    for name in TABLES:
        before = read_table(DATA / name)
        facts["numbers"].setdefault(name, numbers(before))
        after, new = migrate_table(before.copy(), facts)
        keys |= new
        write(name, before, after)
    for stem in DEEP:
        record = json.loads((DATA / f"{stem}.json").read_text())
        for run in record["runs"]:
            run["spec"] = complete(run["spec"], run["commit"], facts)
            keys[run["run"]] = run["run"] = RunSpec.from_json(run["spec"]).key
        (DATA / f"{stem}.json").write_text(json_text(record, indent=1) + "\n")
        write_by_key(f"{stem}.parquet", keys, facts)
    for name in ADAPTED:
        write_by_key(name, keys, facts)
    record = json.loads(POLICY.read_text())
    record["spec"] = complete(record["spec"], record["commit"], facts)
    keys[record["run"]] = record["run"] = RunSpec.from_json(record["spec"]).key
    POLICY.write_text(json_text(record, indent=1) + "\n")
    for path in (DATA / "results" / "deep").glob("*.safetensors"):
        content = path.read_bytes()
        for old, new in keys.items():
            content = content.replace(old.encode(), new.encode(), 1)
        if content != path.read_bytes():
            path.write_bytes(content)
            print(path.name)
    FACTS.write_text(json_text(facts, indent=1) + "\n")


def write_by_key(name: str, keys: dict[str, str], facts: dict) -> None:
    """A table that names runs of other tables: their new keys, and complete options where it shows them."""
    before = read_table(DATA / name)
    facts["numbers"].setdefault(name, numbers(before))
    after = before.assign(run=before["run"].map(keys))
    if "options" in after:
        for (learner, commit, text), rows in before.groupby(["learner", "commit", "options"]):
            then = facts["defaults"].get(commit, COMPLETE)["options"].get(learner, {})
            since = facts["since"]["options"].get(learner, {})
            after.loc[rows.index, "options"] = json_text(since | then | json.loads(text), sort_keys=True)
        for text, rows in before.groupby("settings"):
            after.loc[rows.index, "settings"] = json_text(facts["since"]["settings"] | json.loads(text), sort_keys=True)
        after["train_tasks"] = after["train_tasks"].where(after["train_tasks"].notna(), tasks(before)).astype("int64")
    assert after["run"].notna().all(), f"{name}: runs of no table"
    write(name, before, after)


def tasks(table: pd.DataFrame) -> pd.Series:
    """How many tasks a run without a number of them trained on: the preset's."""
    sizes = {
        pair: RunSpec(pair[0], preset=pair[1]).train_tasks for pair in set(zip(table["trained_on"], table["preset"]))
    }
    return pd.Series([sizes[pair] for pair in zip(table["trained_on"], table["preset"])], table.index)


def write(name: str, before: pd.DataFrame, after: pd.DataFrame) -> None:
    assert numbers(before) == numbers(after) and list(before) == list(after)
    if not before.equals(after):
        write_table(DATA / name, after)
        print(name)


if __name__ == "__main__":
    history() if sys.argv[1:] == ["history"] else main()
