"""RunSpec: all that determines a run, and so its identity. Equal specs give equal numbers (same machine, versions)."""

import hashlib
import json
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pmeta_lib.envs.families import PRESETS, TaskFamily, family, lookup
from pmeta_lib.experiments.learners import LEARNERS, learner
from pmeta_lib.files import UserError, json_text, known
from pmeta_lib.options import Count, options
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.settings import Settings

VERSION = 2  # goes up when equal specs come to mean other numbers; 1 (pmeta 0.1) left options at their default out

FamilyName = Annotated[str, AfterValidator(lambda name: lookup(name) and name)]  # which refuses an unknown one
LearnerName = Annotated[str, AfterValidator(lambda name: known("learner", name, LEARNERS))]
PresetName = Annotated[str, AfterValidator(lambda name: known("preset", name, PRESETS))]
SettingsOrDict = Annotated[Settings, BeforeValidator(lambda x: Settings(**x) if isinstance(x, dict) else x)]


@options
class RunSpec:
    """One learner on one task family from one seed, with every option and setting, given or not: what is left out gets
    today's default *when the spec is made*, so that a later default makes another spec and never passes for this."""

    family: FamilyName
    learner: LearnerName = "pmeta"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    preset: PresetName = "modern"
    train_tasks: Count | None = None  # how many meta-train tasks; None: the preset's number, which takes its place
    options: Annotated[dict, Field(validate_default=True)] = field(default_factory=dict)  # the learner's; all of them
    settings: SettingsOrDict = field(default_factory=Settings)

    @field_validator("options")
    @classmethod
    def _complete(cls, given: dict, before: ValidationInfo) -> dict:
        return asdict(learner(before.data["learner"], **given)) if "learner" in before.data else given

    def __post_init__(self):
        if self.settings.precision == "auto":  # a run is of one precision, and its identity says which
            from pmeta_lib.sac.networks import hidden_type

            precision = str(hidden_type("auto", "cpu")).removeprefix("torch.")
            object.__setattr__(self, "settings", replace(self.settings, precision=precision))
        object.__setattr__(self, "train_tasks", len(self.make_family().train_tasks))

    def make_learner(self) -> Learner:
        """The learner with this spec's options."""
        return learner(self.learner, **self.options)

    def make_family(self) -> TaskFamily:
        """The task family with this spec's preset and number of tasks."""
        return family(self.family, self.preset, train=self.train_tasks)

    def to_json(self) -> dict:
        """Plain JSON types, complete; `RunSpec.from_json` is the inverse."""
        return {"version": VERSION} | json.loads(json_text(asdict(self)))

    @classmethod
    def from_json(cls, data: dict) -> "RunSpec":
        """A spec, from as much of one as is given. Raises `UserError` for unknown keys and values."""
        return cls(**{k: v for k, v in data.items() if (k, v) != ("version", VERSION)})

    @property
    def key(self) -> str:
        """The run's identity and folder name: 16 hex digits of the SHA-256 of its complete JSON."""
        return digest(self.to_json())

    @property
    def changed(self) -> dict:
        """The learner's options that are not at today's default."""
        default = asdict(learner(self.learner))
        return {k: v for k, v in self.options.items() if v != default[k]}

    @property
    def label(self) -> str:
        """For people: family, learner, changed options, seed."""
        options = "".join(f" {k}={v}" for k, v in sorted(self.changed.items()))
        return f"{self.family} {self.learner}{options} seed {self.seed}"


def digest(data: dict | str) -> str:
    """16 hex digits of the SHA-256 of a text, or of canonical JSON."""
    text = data if isinstance(data, str) else json_text(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class OldRun(UserError):
    """A run on disk of which today's code cannot say that it would be the same run."""


def stored_spec(folder: Path) -> RunSpec:
    """The spec of the run in `folder`. Raises `OldRun` if an older version wrote it (equal specs meant other numbers,
    or it lacks an option of today), `UserError` if the file is damaged, `FileNotFoundError` if it is not there."""
    path, why = Path(folder) / "spec.json", "its spec.json does not say all its options"
    try:
        data = json.loads(path.read_bytes())
        if data.get("version") == VERSION and (spec := RunSpec.from_json(data)).to_json() == data:
            return spec
    except UserError as error:  # an option or a family that is no more
        why = str(error)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder to start the run again") from error
    raise OldRun(f"{folder} holds a run of an older version ({why}); run it again in another folder")


def old_runs(folder: Path) -> list[Path]:
    """The runs directly below `folder` that another version wrote."""
    this = b'"version": %d,' % VERSION
    return sorted(p.parent for p in Path(folder).glob("*/spec.json") if this not in p.read_bytes())
