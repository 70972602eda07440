"""Everything this package raises on purpose, on one screen.

    OverqError
     ├─ FormatError          a Format, Recipe or ArrayConfig that makes no sense        (also ValueError)
     ├─ InputError           an argument, file or image that does not fit               (also ValueError)
     │   └─ NonFiniteError   NaN or infinity where only finite numbers mean something
     ├─ CalibrationError     samples from which no step size can be chosen              (also ValueError)
     ├─ FidelityError        a quantized copy that does not compute what its summary says
     ├─ ModelFileError       a saved model that is damaged, foreign or of another version
     ├─ BackendError         a kernel backend that does not exist or cannot run here    (also RuntimeError)
     │   └─ UnsupportedModeError   a backend that does not implement a mode of the Format
     └─ ToolError            an outside tool or optional dependency is missing or failed (also RuntimeError)

    OverqWarning             what was left out or done in part; the result is right for the rest (also UserWarning)
     └─ MostlyFloatWarning   less than half of what a quantized model multiplies is quantized

Every message is one line: what is wrong, where, and what would be right.
"""

from __future__ import annotations


class OverqError(Exception):
    """Base of all errors raised by overq."""


class FormatError(OverqError, ValueError):
    """A configuration that refuses itself in its constructor."""


class InputError(OverqError, ValueError):
    """An argument, file or image that does not fit what was asked."""


class NonFiniteError(InputError):
    """NaN or infinity where a number was needed."""


class CalibrationError(OverqError, ValueError):
    """No step size can be chosen from what was observed."""


class FidelityError(OverqError):
    """A quantized copy of a model that, for a reason outside this package's reach, is not the model with quantizers."""


class ModelFileError(OverqError):
    """A saved model that is damaged, foreign, or of a version this code does not read."""


class BackendError(OverqError, RuntimeError):
    """A kernel backend that does not exist or cannot run on this machine."""


class UnsupportedModeError(BackendError):
    """A backend asked for an overwrite mode it does not implement."""


class ToolError(OverqError, RuntimeError):
    """An outside tool or optional dependency is missing, or it failed."""


class OverqWarning(UserWarning):
    """Something that was left out, or done in part: the result holds for the rest, and the caller should know."""


class MostlyFloatWarning(OverqWarning):
    """Less than half of a quantized model's multiply-accumulates are quantized."""
