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
    """All runs have the settings `FIELD`, each family one budget and precision; an estimate knows what is dearer."""
    plan = load(ROOT / f"data/sweeps/{name}.toml", scale="field")
    budgets = {}
    for spec in plan.runs:
        settings = {k: getattr(spec.settings, k) for k in FIELD}
        precision = settings.pop("precision")
        assert settings == {k: v for k, v in FIELD.items() if k != "precision"}
        budgets.setdefault(spec.family, set()).add((spec.settings.steps, precision))
    assert all(len(found) == 1 for found in budgets.values())
    if name == "mujoco":
        fast = FIELD["precision"]
        assert budgets["half-cheetah-dir"] == {(1_000_000, fast)} and budgets["half-cheetah-vel"] == {(200_000, fast)}
        assert budgets["hopper-params"] == {(40_000, "float32")} and budgets["walker2d-params"] == {(80_000, "float32")}
    else:
        assert {precision for found in budgets.values() for _, precision in found} == {FIELD["precision"]}
    spec = plan.runs[0]
    dearer = [replace(spec, settings=replace(spec.settings, **{k: v})) for k, v in
              (("envs_per_task", 1), ("precision", "float32"), ("updates_per_step", 1.0))]  # fmt: skip
    assert all(cost.seconds(other, 1) >= cost.seconds(spec, 1) for other in dearer)
    assert cost.seconds(dearer[0], 1) > 1.05 * cost.seconds(spec, 1) < cost.seconds(dearer[2], 1)
