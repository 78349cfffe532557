"""Task families and the environment that steps all of their tasks at once.

Importing this package registers `pmeta/<Family>-v0` with gymnasium (keywords `task`, `preset`);
`gymnasium.make("pmeta_lib.envs:pmeta/HalfCheetahDir-v0", task=-1)` imports it by itself.
"""

import gymnasium

from pmeta_lib.envs.families import FAMILIES, PRESETS, TaskFamily, check_held_out, family
from pmeta_lib.envs.vector import TaskVectorEnv

__all__ = ["FAMILIES", "PRESETS", "TaskFamily", "TaskVectorEnv", "check_held_out", "family"]

_MODULES = {
    "classic": ("PointRobot", "PendulumParams", "PendulumFlip"),
    "lunar": ("LunarLanderParams",),
    "mujoco": (
        "HalfCheetahDir",
        "HalfCheetahVel",
        "AntDir",
        "AntGoal",
        "HumanoidDir",
        "Walker2dParams",
        "HopperParams",
    ),
}
for _module, _names in _MODULES.items():
    for _name in _names:
        if f"pmeta/{_name}-v0" not in gymnasium.registry:
            gymnasium.register(f"pmeta/{_name}-v0", f"pmeta_lib.envs.{_module}:{_name}Env")
