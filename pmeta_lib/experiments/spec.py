"""RunSpec: all that determines a run, and so its identity. Equal specs give equal numbers (same machine, versions)."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields

from pmeta_lib.envs.families import FAMILIES, PRESETS, TaskFamily, family
from pmeta_lib.experiments.learners import LEARNERS, Learner, learner
from pmeta_lib.files import UserError, unknown
from pmeta_lib.sac.settings import Settings


@dataclass(frozen=True)
class RunSpec:
    """One learner on one task family from one seed. Immutable, hashable through `key`, JSON through `to_json`."""

    family: str
    learner: str = "pmeta"
    seed: int = 0
    preset: str = "modern"
    train_tasks: int | None = None  # how many meta-train tasks; None: the preset's
    options: dict = field(default_factory=dict)  # the learner's hyper-parameters where not default
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self):
        if isinstance(self.settings, dict):
            object.__setattr__(self, "settings", make_settings(self.settings))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed!r}; give a whole number from 0 to 2^63 - 1")
        if self.family not in FAMILIES:
            raise unknown("family", self.family, FAMILIES)
        if self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        if self.learner not in LEARNERS:
            raise unknown("learner", self.learner, LEARNERS)
        self.make_learner()
        self.make_family()

    def make_learner(self) -> Learner:
        """The learner with this spec's options."""
        return learner(self.learner, **self.options)

    def make_family(self) -> TaskFamily:
        """The task family with this spec's preset and number of tasks."""
        return family(self.family, self.preset, train=self.train_tasks)

    def to_json(self) -> dict:
        """Plain JSON types; `RunSpec.from_json` is the inverse."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: dict) -> "RunSpec":
        """Raises `UserError` for unknown keys and values."""
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise unknown("key", key, known, where="the run's spec")
        return cls(**data)

    @property
    def key(self) -> str:
        """The run's identity and folder name: 16 hex digits of the SHA-256 of its canonical JSON.

        Numbers are normalised (1 and 1.0 are one), and a learner option at its default counts as not given.
        """
        data = self.to_json()
        chosen = self.make_learner()
        data["options"] = {
            f.name: getattr(chosen, f.name) for f in fields(chosen) if getattr(chosen, f.name) != f.default
        }
        text = json.dumps(_normal(data), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For people: family, learner, options, seed."""
        options = "".join(f" {k}={v}" for k, v in sorted(self.options.items()))
        return f"{self.family} {self.learner}{options} seed {self.seed}"


def make_settings(data: dict) -> Settings:
    """`Settings` from a dict; unknown keys and wrong values are `UserError`s."""
    known = [f.name for f in fields(Settings)]
    for key in data:
        if key not in known:
            raise unknown("setting", key, known)
    return Settings(**data)


def _normal(value):
    """Whole floats as ints, so that `lam = 1` and `lam = 1.0` are the same run."""
    if isinstance(value, dict):
        return {k: _normal(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
