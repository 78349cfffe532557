"""Why does a trained policy fall when it learns on? `collapse.parquet`, from the runs of `data/sweeps/collapse.toml`.

`python data/results/collapse.py OUT` adapts every run twice (a few minutes), with fresh critics and temperature and
with the trained ones, each at the rate of its training, and writes what is deployed after 0, 1,000, 2,000 and 4,000
steps and the first twenty episodes as they were lived: a row a learner, critics, seed and step or episode, means over
the five held-out tasks. Without a folder the stored table is judged: how far does the return fall in 1,000 steps?
"""

import sys
from pathlib import Path

import pandas as pd
from pmeta_course.reproduction.ablations import falls
from pmeta_course.reproduction.statistics import difference_interval

from pmeta_lib.experiments import results
from pmeta_lib.experiments.adapt import adapt_packed
from pmeta_lib.files import UserError, write_table
from pmeta_lib.sac.adaptation import CRITICS, Plan

TABLE = Path(__file__).resolve().with_suffix(".parquet")
STEPS = (0, 1_000, 2_000, 4_000)


def adapted(folder: Path) -> pd.DataFrame:
    """The rows of the table, in the learner's own way; the references are left out."""
    parts = []
    for critics in CRITICS:
        for _, cell in results.runs(folder).groupby("cell", sort=False):
            out = folder.with_name(f"{folder.name}_{critics}")
            paths = adapt_packed(list(map(Path, cell["folder"])), Plan(STEPS, critics=critics), out=out, shared=out)
            parts += [pd.read_parquet(path) for path in paths]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[~rows["way"].isin(["scratch", "random"])]
    by = ["learner", "critics", "policy", "seed", "step", "episode"]
    return rows.groupby(by, as_index=False, observed=True, dropna=False)["return"].mean()


if __name__ == "__main__":
    if sys.argv[1:]:
        try:
            write_table(TABLE, adapted(Path(sys.argv[1])))
        except UserError as error:
            sys.exit(f"collapse.py: {error}")
    stored = pd.read_parquet(TABLE)
    for row in falls(stored):
        print("{learner}, {critics} critics: {value:+.0f} [{low:+.0f}, {high:+.0f}]".format(**row))
    after = stored[(stored["policy"] == "deployed") & (stored["step"] == 1_000)].set_index(["critics", "learner"])
    for name in sorted(stored["learner"].unique()):
        pair = (after.loc[(critics, name), "return"].to_numpy() for critics in ("learned", "fresh"))
        print("{}, learned minus fresh: {:+.0f} [{:+.0f}, {:+.0f}]".format(name, *difference_interval(*pair)))
