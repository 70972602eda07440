"""Weights from a file into a network: plain tensors only, every one in its place, and a word for whatever was stripped.

Training tools wrap the state in dictionaries, begin its names with their own, and add counters. Where nothing else differs the
file is loaded and the warning says what was done; else the error names the first tensors that differ and the way out.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overq.errors import InputError, OverqWarning

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "state", "weights", "params")
DEPTH = 4  # of nested wrappers
INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch's own, between any two parts of a name
COUNTERS = ("total_ops", "total_params", "n_averaged")  # thop's, and AveragedModel's
TRACKED = "num_batches_tracked"  # batch norm has it since torch 0.4.1; nothing that eval mode computes depends on it


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`: every tensor must be there, fit in shape and kind, and be finite.

    Raises InputError in one line; OverqWarning says which prefix, counters and old batch norms were dealt with.
    """
    saved, said = _unwrapped(_read(path), path)
    try:
        wanted = model.state_dict()
        shapes = {key: tuple(value.shape) for key, value in wanted.items()}
    except Exception as error:  # lazy layers have no shape before their first batch
        raise InputError(f"{path} cannot be loaded into {type(model).__name__}: {' '.join(str(error).split())[:200]}") from error
    state, done = _renamed(saved, wanted)
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise InputError(f"{path} does not fit {type(model).__name__}: {_difference(missing, extra, saved, wanted)}")
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    for key, value in state.items():
        if tuple(value.shape) != shapes[key]:
            raise InputError(f"{path} does not fit {type(model).__name__}: {_other_shape(key, value, wanted[key])}")
        if wrong := _unusable(value, wanted[key], key in parameters):
            raise InputError(f"{path}: {key!r} {wrong}")
    try:
        model.load_state_dict(state)
    except Exception as error:  # hooks of the model
        raise InputError(f"{path} cannot be loaded into {type(model).__name__}: {' '.join(str(error).split())[:200]}") from error
    if said or done:
        warnings.warn(f"{path}: {'; '.join([*said, *done])}", OverqWarning, stacklevel=2)


def _read(path: Path) -> Any:
    """What the file holds, never unpickled beyond plain tensors."""
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # SafetensorError, OSError, and a KeyError for dtypes that it does not know
            raise InputError(f"{path}: not a readable safetensors file: {' '.join(str(error).split())[:200]}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = "it is damaged or holds pickled objects, which are never loaded: save model.state_dict() or a .safetensors file"
        raise InputError(f"{path} is not a checkpoint of plain tensors: {why}") from error
    except Exception as error:  # torch.load raises whatever the zip reader, the tar reader or the unpickler met
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{path}: not a readable torch checkpoint: {text}") from error


def _unwrapped(saved: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The dictionary of tensors inside the wrappers; a word where a second one was left aside."""
    said = []
    for _ in range(DEPTH):
        inner = [key for key in WRAPPERS if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping)]
        if not inner:
            break
        rest = [key for key, value in saved.items() if isinstance(value, Mapping) and key != inner[0] and _is_state(value)]
        said += [f"read {inner[0]!r}, not {', '.join(map(repr, rest))}"] * bool(rest)
        saved = saved[inner[0]]
    if not _is_state(saved):
        raise InputError(f"{path} is not a state_dict of tensors (looked for one also under {', '.join(WRAPPERS)})")
    return dict(saved), said


def _is_state(saved: Any) -> bool:
    pairs = saved.items() if isinstance(saved, Mapping) else ()
    return bool(pairs) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in pairs)


def _renamed(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state under the model's names as far as a prefix, counters and old batch norms explain the difference, and what was done."""
    if saved.keys() == wanted.keys():
        return saved, []
    state, done = dict(saved), []
    for part in INSERTED:
        if any(part in key for key in state) and not any(part in key for key in wanted):
            state = {key.replace(part, ""): value for key, value in state.items()}
            done.append(f"removed {part!r} from the names")
    counters = [key for key in state if key.rpartition(".")[2] in COUNTERS and key not in wanted]
    if len(counters) < len(state) and not any(key.rpartition(".")[2] in COUNTERS for key in wanted):
        state = {key: value for key, value in state.items() if key not in counters}
        kinds = sorted({key.rpartition(".")[2] for key in counters})
        done += [f"left out {len(counters)} counters ({', '.join(kinds)})"] * bool(counters)
    found = _prefixed(state, wanted)
    if found is not None:
        state, prefix = found
        done.append(prefix)
    old = [key for key in wanted.keys() - state.keys() if key.rpartition(".")[2] == TRACKED]
    tied = {key: other for key in wanted.keys() - state.keys() if (other := _tied(key, wanted, state))}
    if wanted.keys() - state.keys() <= {*old, *tied} and state.keys() <= wanted.keys():
        state |= {key: wanted[key] for key in old} | {key: state[other] for key, other in tied.items()}
        done += [f"the file has no {TRACKED}, which nothing depends on here"] * bool(old)
        done += [f"{key!r} is {other!r}, to which the model ties it" for key, other in tied.items()]
    return state, done


def _prefixed(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], str] | None:
    """The state with one prefix removed from all names, or added to all, where the names are then the model's."""
    needed = {key for key in wanted if not key.endswith(TRACKED)}
    if not needed or needed <= state.keys():
        return None
    for prefix in _prefixes(state, min(needed)):
        names = {key.removeprefix(prefix) for key in state}
        if all(key.startswith(prefix) for key in state) and needed <= names <= wanted.keys():
            return {key.removeprefix(prefix): value for key, value in state.items()}, f"removed the prefix {prefix!r}"
    for prefix in _prefixes(wanted, min(state, default="")):
        names = {prefix + key for key in state}
        if needed <= names <= wanted.keys():
            return {prefix + key: value for key, value in state.items()}, f"added the prefix {prefix!r}"
    return None


def _prefixes(longer: Mapping[str, Any], name: str) -> list[str]:
    """What stands before `name` in names that end with it."""
    return sorted({key.removesuffix(name) for key in longer if key.endswith("." + name)}, key=len)


def _tied(key: str, wanted: dict[str, Tensor], state: dict[str, Tensor]) -> str | None:
    """A name that the file has for a tensor that the model holds under `key` too."""
    mine = wanted[key]
    same = (
        k for k in state if k in wanted and wanted[k].shape == mine.shape and wanted[k].numel() and wanted[k].data_ptr() == mine.data_ptr()
    )
    return next(same, None)


def _difference(missing: list[str], extra: list[str], saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """The first tensors that differ, how many do, and the way out."""
    lacks = [f"lacks {key!r}" for key in missing[:1]]
    first = " and ".join([*lacks, *(f"has {key!r}, which the model does not" for key in extra[:1])])
    counts = f"({len(missing)} missing, {len(extra)} unknown tensors)"
    best = max(_prefixes(saved, min(wanted, default="")), key=lambda p: sum(p + key in saved for key in wanted), default="")
    fit = sum(best + key in saved for key in wanted)
    if best and fit == len(wanted):
        way = f"keep only the names that begin with {best!r}: these are the model's"
    elif best:
        way = f"{fit} of the model's {len(wanted)} tensors are there with the prefix {best!r}; the rest must be too"
    elif not missing:
        way = "leave the unknown ones out of the file"
    elif not fit:
        way = "no name is the model's: is it another architecture?"
    else:
        way = "save model.state_dict() of the same architecture"
    return f"it {first} {counts}; {way}"


def _other_shape(key: str, value: Tensor, wanted: Tensor) -> str:
    text = f"{key!r} has shape {list(value.shape)}, the model wants {list(wanted.shape)}"
    if value.shape[1:] == wanted.shape[1:] and value.ndim == wanted.ndim > 0:
        text += f"; the factory must make it with {value.shape[0]} outputs"
    return text


def _unusable(value: Tensor, wanted: Tensor, parameter: bool) -> str | None:
    """Why a tensor's values cannot be taken over; None where they can."""
    if value.is_meta:
        return "holds no data"
    if value.layout != torch.strided or value.is_quantized:
        return f"is {'quantized' if value.is_quantized else 'sparse'}; store it dense and in floating point"
    if value.is_complex():
        return "is complex; quantization is for real weights"
    if not wanted.is_floating_point():
        return f"holds {value.dtype}, the model wants {wanted.dtype}" if value.is_floating_point() else None
    if not value.is_floating_point():
        return f"holds {value.dtype}, the model wants floating point: integers without their scale are no weights"
    taken = value.to(wanted.dtype)
    if taken.isnan().any() or (parameter and not taken.isfinite().all()):
        return f"holds {'NaN' if taken.isnan().any() else f'values beyond {wanted.dtype} or infinity'}"
    return None
