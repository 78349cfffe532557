"""A learner and a family of another package, by entry points: they train, sweep, give results and have a colour."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
MODULE = '''
import numpy as np

from pmeta_lib.envs.classic import PointRobotBatch, PointRobotEnv
from pmeta_lib.envs.families import Family
from pmeta_lib.options import Count, options
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.update import sac_update


@options
class Lazy(Learner):
    """SAC that updates every `every` steps only."""

    name = "lazy"
    every: Count = 2  # steps between two updates

    def update(self, agent, batch):
        return sac_update(agent, batch)


LINE = Family(
    env="Line", entry="toy:PointRobotEnv", batch="toy:PointRobotBatch", base="2-D navigation", observation_size=2,
    action_size=2, action_limit=0.1, sample=lambda n, rng: rng.uniform(-1.0, 1.0, (n, 2)), default=(1.0, 0.0),
    describe=lambda t: f"goal {t}", tasks=(3, 2), horizon=10)
'''
SWEEP = """
families = ["line", "point-robot"]
learners = ["lazy", "pmeta"]
seeds = "0-1"
train_tasks = 2
settings = { steps = 60, warm_up = 20, hidden = [4], batch_size = 4, evaluations = 2, evaluation_episodes = 1 }
[options.lazy]
every = [1, 3]
"""
FIGURE = """
import pandas as pd
from pmeta_lib.figures import COLOURS, LEARNERS
from pmeta_lib.experiments.cost import seconds
from pmeta_lib.experiments.results import spec_of
table = pd.read_parquet("all.parquet")
assert "lazy" in LEARNERS and len({COLOURS[n] for n in ("lazy", "pmeta", "independent", "pearl")}) == 4
assert all(seconds(spec_of(row), 1) > 0 for row in table.drop_duplicates("run").to_dict("records"))
import gymnasium
from gymnasium.utils.env_checker import check_env
check_env(gymnasium.make("pmeta_lib.envs:pmeta/Line-v0").unwrapped, skip_render_check=True)
"""


def test_a_toy_learner_and_a_toy_family_from_outside(tmp_path):
    (tmp_path / "toy.py").write_text(MODULE)
    about = tmp_path / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pmeta.learners]\nlazy = toy:Lazy\n[pmeta.families]\nline = toy:LINE\n")
    (tmp_path / "toy.toml").write_text(SWEEP)
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "notebooks")))

    def call(*words):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": paths})  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pmeta = ("-m", "pmeta_lib.cli")
    said = call(*pmeta, "train", "--help")
    assert "options of --option for --learner lazy" in said and "steps between two updates" in said and "line" in said
    few = [f"--set={k}" for k in ("steps=60", "warm_up=20", "hidden=4", "batch_size=4", "evaluations=1")]
    call(*pmeta, "train", "line", "--learner", "lazy", "--option", "every=3", "--quiet", "--out", "one", *few)
    assert json.loads((tmp_path / "one" / "spec.json").read_text())["options"] == {"every": 3}
    call(*pmeta, "sweep", "toy.toml", "--out", "out", "--jobs", "1")
    call(*pmeta, "sweep", "results", "out", "--out", "all.parquet")
    table = pd.read_parquet(tmp_path / "all.parquet")
    assert table.groupby(["family", "learner"])["run"].nunique().to_dict() == {
        ("line", "lazy"): 4, ("line", "pmeta"): 2, ("point-robot", "lazy"): 4, ("point-robot", "pmeta"): 2}  # fmt: skip
    call("-c", FIGURE)
