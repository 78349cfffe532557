"""Task families and the environment that steps all of their tasks at once.

Importing this package registers `pmeta/<Family>-v0` with gymnasium (keywords `task`, `preset`);
`gymnasium.make("pmeta_lib.envs:pmeta/HalfCheetahDir-v0", task=-1)` imports it by itself."""

import gymnasium

from pmeta_lib.envs.families import FAMILIES, PRESETS, TaskFamily, check_held_out, family, lookup
from pmeta_lib.envs.vector import TaskVectorEnv

__all__ = ["FAMILIES", "PRESETS", "TaskFamily", "TaskVectorEnv", "check_held_out", "family"]

for _name in FAMILIES:
    _row = lookup(_name)
    if (_id := f"pmeta/{_row.env}-v0") not in gymnasium.registry:  # ant-dir-graded's environment is ant-dir's
        gymnasium.register(_id, _row.entry, kwargs={"family": _name})
