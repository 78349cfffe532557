#!/usr/bin/env bash
# What mujoco.mj_setConst leaves in the MjData that it works with.
# Guess, as a docstring of ours had it: it computes at the reference pose, and leaves data at qpos0.
# Found (mujoco 3.3.0, 3.10.0; gymnasium 1.4.0's robots): qpos and all that follows from it are left at qpos_spring, the
# springs' pose, with or without springs and tendons; velocities and time stay what they were. For gymnasium's hopper and
# walker, whose joints say ref="1.25", the two poses are 1.25 m apart: who steps on without a reset starts in the floor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mujoco==3.10.0 gymnasium==1.4.0 numpy==2.2.6 packaging imageio \
    || { echo "cannot install"; exit 2; }
"$folder/venv/bin/python" - <<'PY'
import sys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

seen = {}
for name in ("hopper", "walker2d", "half_cheetah"):
    path = Path(gymnasium.__file__).parent / "envs/mujoco/assets" / f"{name}{'_v5' * (name == 'walker2d')}.xml"
    model = mujoco.MjModel.from_xml_path(str(path))
    data = mujoco.MjData(model)
    data.qvel[:], data.time = 3.0, 9.0
    mujoco.mj_setConst(model, data)
    at_spring = np.array_equal(data.qpos, model.qpos_spring) and (data.qvel == 3).all() and data.time == 9
    seen[name] = bool(at_spring), float(np.abs(data.qpos - model.qpos0).max())
print(f"mujoco {mujoco.__version__}: left at qpos_spring, its distance from qpos0: {seen}")
sys.exit(0 if seen == {"hopper": (True, 1.25), "walker2d": (True, 1.25), "half_cheetah": (True, 0.0)} else 1)
PY
