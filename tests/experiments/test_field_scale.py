"""The field's scale in the sweep files, and what it is estimated to cost."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.sac import FIELD

from pmeta_lib.experiments import cost
from pmeta_lib.experiments.sweep_spec import load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["gym", "mujoco"])
def test_the_fields_scale_is_the_same_for_every_learner_and_family(name):
    """All runs have the settings `FIELD`, and each family one budget; an estimate knows environments and products."""
    plan = load(ROOT / f"data/sweeps/{name}.toml", scale="field")
    steps = {}
    for spec in plan.runs:
        assert {k: getattr(spec.settings, k) for k in FIELD} == FIELD
        steps.setdefault(spec.family, set()).add(spec.settings.steps)
    assert all(len(budgets) == 1 for budgets in steps.values())
    if name == "mujoco":
        assert steps["half-cheetah-dir"] == {1_000_000} and steps["half-cheetah-vel"] == {200_000}
    spec = plan.runs[0]
    dearer = [replace(spec, settings=replace(spec.settings, **{k: v})) for k, v in
              (("envs_per_task", 1), ("precision", "float32"), ("updates_per_step", 1.0))]  # fmt: skip
    assert all(cost.seconds(other, 1) >= cost.seconds(spec, 1) for other in dearer)
    assert cost.seconds(dearer[0], 1) > 1.05 * cost.seconds(spec, 1) < cost.seconds(dearer[2], 1)
