"""Options as frozen dataclasses that check themselves (by pydantic) and say every mistake at once."""

import functools
import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from pmeta_lib.files import UserError, unknown

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # 1 passes for 1.0; "1", True, inf and nan do not
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
MetaStep = Annotated[float, Field(ge=0, le=2)]  # 1 goes to the mean, 2 as far beyond it: further, and nothing settles
AMetaStep = Annotated[MetaStep, Field(gt=0)]  # that is taken at all
Aggregate = Literal["drawn", "all"]
Baseline = Literal["linear", "network"]
Precision = Literal["float32", "bfloat16", "auto"]
Widths = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]  # a list will do


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def options(cls: type) -> type:
    """A frozen dataclass whose values are held to its annotations; `noun` of the class says what a field is called.
    Making one, or `replace`, raises `UserError` with all mistakes; `__post_init__` may, for values wrong together."""
    checked: Any = dataclass(frozen=True, config=STRICT)(cls)
    make, signature = checked.__init__, inspect.signature(checked)

    @functools.wraps(make)
    def __init__(self, *given, **named):
        try:  # by name, since a mistake in what is given by place would be called by its number
            make(self, **signature.bind_partial(*given).arguments, **named)
        except ValidationError as error:
            raise UserError("; ".join(text for _, text in mistakes(type(self), error))) from None

    checked.__init__ = __init__
    return checked


def mistakes(cls: type, error: ValidationError) -> Iterator[tuple[tuple, str]]:
    """(path, text) of each mistake that pydantic found in the input for `cls`."""
    for entry in error.errors(include_url=False):
        *above, last = path = entry["loc"] or ("",)
        owner: Any = functools.reduce(_inner, above, cls)
        noun, of = getattr(owner, "noun", ""), f" of learner {owner.name}" if getattr(owner, "name", "") else ""
        cause = entry.get("ctx", {}).get("error")
        if isinstance(cause, UserError):
            yield path, str(cause)
        elif entry["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            yield path, str(unknown((noun or "key") + of, last, owner.__pydantic_fields__ or ["(it has none)"]))
        elif entry["type"] in ("missing", "missing_argument"):
            yield path, f"{last} is missing"
        elif not is_dataclass(owner):  # a file, whose path is shown beside
            yield path, f"{entry['input']!r}, but {_plain(entry['msg'])}"
        else:
            field = max((i for i, part in enumerate(path) if isinstance(part, str)), default=0)
            name = str(path[field]) + "".join(f"[{i}]" for i in path[field + 1 :])
            yield path, f"{noun} {name}{of} is {entry['input']!r}; {_plain(entry['msg'])}".strip()


def _plain(text: str) -> str:
    """pydantic's sentence in fewer words."""
    for long, short in (("Input should", "it must"), ("Tuple should", "it must"), ("List should", "it must"),
                        ("greater than or equal to", "at least"), ("less than or equal to", "at most"),
                        ("a valid integer", "a whole number"), (" after validation, not 0", "")):  # fmt: skip
        text = text.replace(long, short)
    return text


def _inner(owner: Any, name) -> type:
    """The options that the field `name` of `owner` holds, or `owner` itself where it is an item of a list."""
    kinds = [owner.__pydantic_fields__[name].annotation] if name in owner.__pydantic_fields__ else []
    for kind in kinds:  # a list that grows
        if hasattr(kind, "__pydantic_fields__"):
            return kind
        kinds += getattr(kind, "__args__", ())
    return owner
