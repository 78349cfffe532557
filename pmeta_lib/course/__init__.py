"""What notebooks use besides the algorithms: `record` a value, `check` an exercise."""

from pmeta_lib.course.exercises import check
from pmeta_lib.course.regression import record

__all__ = ["check", "record"]
