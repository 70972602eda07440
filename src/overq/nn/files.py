"""save and load: one safetensors file that holds the integers, the scales and a JSON manifest. Never pickle.

The manifest stands in the file's metadata under the key "overq":

    version   of this layout; another one is refused
    recipe    Recipe.to_json
    summary   Summary.to_dict
    sites     products that the model spells as functions (`overq.nn.sites`); their weights are stored as they are multiplied with
    multiplying  names of the modules whose forward multiplies activations
    inputs    by layer name: the method of its input with step and sign (`overq.methods.fitted_to_json`), which it computes with
    sha256    of every tensor's name, dtype, shape and bytes, in order of name, and of the rest of the manifest

Tensors are the model's state_dict; a quantized layer stores `weight_integers` (int8; int16 of split channels) and `weight_scale` in place
of `weight`, and where it has them `lane_order` (int64), `input_scale`, `rotation` (int64), `input_shift` and `dead_zone`. A bias
that correction gave to a layer without one is there too.

Version 2 had `layers` and `float` in place of `summary`, and no `inputs`: format and step of a layer are what it computes with. Its
recipes held a format, no method.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from overq.errors import FormatError, InputError, ModelFileError, OverqError
from overq.methods import Fitted, fitted_from_json, fitted_to_json, method_of
from overq.nn.candidates import can_quantize
from overq.nn.convert import attach, share_tensors, summary
from overq.nn.convert_sites import convert_sites, described, factors_of, parameter_of
from overq.nn.layers import Arrangement, weight_of
from overq.nn.quantized import Parts, Quantized, convert_layer, give_bias
from overq.nn.recipe import LayerRule, Recipe
from overq.nn.replica import ready
from overq.nn.report import LayerReport, Summary
from overq.nn.sites import Multiplies, Site
from overq.nn.spelled import lanes_of
from overq.output import staged

VERSION = 3  # 3: the whole summary, any method; 2: lane_order, input_scale; recipes with reorder, equalize and bias_correction
READ = (2, VERSION)
_NO_STATE = nn.Module.get_extra_state


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a quantized model to one .safetensors file, whole or not at all.

    Raises InputError for a model that `quantize` did not make, a folder that does not exist, and what the disk refuses.
    """
    path = Path(path)
    manifest, tensors = contents(model, path)
    manifest["sha256"] = _digest(tensors, manifest)
    with staged(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"overq": json.dumps(manifest)})
        except SafetensorError as error:
            raise InputError(f"cannot write {path}: {error}") from error


def contents(model: nn.Module, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a file at `path` holds of a quantized model: the manifest, and the tensors on the CPU."""
    facts = summary(model)
    if not path.parent.is_dir():
        raise InputError(f"cannot save to {path}: the folder {path.parent} does not exist")
    tensors, layers, factors = _tensors(model), dict(model.named_modules()), factors_of(model)
    if stateful := [name for name, m in layers.items() if not isinstance(m, Quantized) and type(m).get_extra_state is not _NO_STATE]:
        raise InputError(f"cannot save to {path}: module {stateful[0]!r} keeps state besides tensors (get_extra_state)")
    manifest = {
        "version": VERSION,
        "recipe": model.overq_recipe.to_json(),  # type: ignore[union-attr,operator]
        "summary": facts.to_dict(),
        "inputs": {report.name: fitted_to_json((layers.get(report.name) or factors[report.name]).fitted) for report in facts.layers},
        "sites": described(model),
        "multiplying": [name for name, module in layers.items() if isinstance(module, Multiplies)],
    }
    return manifest, tensors


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """The quantized model stored at `path`, built on the architecture of the float `model`, which is left as it was.

    Device and dtype are those of `model`. Raises ModelFileError for a file that is damaged, foreign, of another version or
    of another architecture; nothing is unpickled.
    """
    path = Path(path)
    return restored(*read(path), model, path)


def facts_of(manifest: dict[str, Any], path: Path) -> Summary:
    """What the manifest says of the layers. ModelFileError where that makes no sense."""
    return _manifest(manifest, path)[0]


def _manifest(manifest: dict[str, Any], path: Path) -> tuple[Summary, list[Fitted], Recipe]:
    try:
        facts = Summary.from_dict(manifest["summary"] if manifest["version"] != 2 else {**manifest, "shares": [], "notes": []})
        inputs = [_input(manifest, report) for report in facts.layers]
        recipe = Recipe.from_json(manifest["recipe"])
        for report, fitted in zip(facts.layers, inputs, strict=True):
            _check(report, fitted)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OverqError) as error:
        raise ModelFileError(f"{path}: the manifest is malformed: {' '.join(str(error).split())[:300]}") from error
    return facts, inputs, recipe


def _sites(manifest: dict[str, Any], facts: Summary, model: nn.Module, path: Path) -> tuple[dict[str, Site], list[str]]:
    """By name, the products of functions that the file quantizes, all of which the model has; and the modules that multiply activations."""
    try:
        sites = {entry["name"]: Site(**entry) for entry in manifest.get("sites", [])}
        multiplying = [str(name) for name in manifest.get("multiplying", [])]
        for site in sites.values():
            texts, numbers = (site.name, site.module, site.key, site.role), (site.dim, -1 if site.axis is None else site.axis)
            if not all(isinstance(t, str) for t in texts) or not all(type(n) is int and -8 < n < 0 for n in numbers):
                raise FormatError(f"the product {site.name!r} is none")
            if site.axis is not None and -site.axis > parameter_of(site, model).ndim:
                raise FormatError(f"the parameter {site.name!r} has no axis {site.axis}")
        if not sites.keys() <= {report.name for report in facts.layers}:
            raise FormatError("a product has no input")
        for name in multiplying:
            model.get_submodule(name)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverqError) as error:
        raise ModelFileError(f"{path}: products that the model does not have: {' '.join(str(error).split())[:300]}") from error
    return sites, multiplying


def restored(manifest: dict[str, Any], tensors: dict[str, torch.Tensor], model: nn.Module, path: Path) -> nn.Module:
    """The quantized model that `contents` was taken from."""
    facts, inputs, recipe = _manifest(manifest, path)
    result = ready(model)
    sites, multiplying = _sites(manifest, facts, result, path)
    modules = dict(result.named_modules())
    for report, fitted in zip(facts.layers, inputs, strict=True):
        if report.name in sites:
            continue
        module, prefix = modules.get(report.name), report.name + "." if report.name else ""
        if module is None or not can_quantize(module):
            raise ModelFileError(f"{path}: the model has no {report.kind} named {report.name!r}; it was saved from another architecture")
        try:
            integers, scale = tensors[prefix + "weight_integers"], tensors[prefix + "weight_scale"]
        except KeyError as missing:
            raise ModelFileError(f"{path}: tensor {missing} is missing") from None
        wanted = weight_of(module).shape
        if integers.shape != wanted:
            raise ModelFileError(f"{path}: layer {report.name!r} has weights {list(integers.shape)}, the model wants {list(wanted)}")
        if integers.dtype not in (torch.int8, torch.int16) or scale.shape != integers.shape[:1] or not scale.is_floating_point():
            raise ModelFileError(f"{path}: layer {report.name!r} needs int8 weights and one scale for each of {len(integers)} outputs")
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise ModelFileError(f"{path}: layer {report.name!r} has scales that are not positive and finite")
        arrangement = _arrangement(tensors, prefix, integers, path)
        convert_layer(module, Parts(integers, scale, report.weight_bits, fitted, arrangement))
        if prefix + "bias" in tensors:
            give_bias(module)
    found = [(sites[r.name], fitted) for r, fitted in zip(facts.layers, inputs, strict=True) if r.name in sites]
    convert_sites(result, found, dict.fromkeys(sites), multiplying)
    share_tensors(result, facts.layers)
    _fill(result, tensors, path)
    attach(result, facts, recipe)
    return result


def _check(report: LayerReport, fitted: Fitted) -> None:
    """Refuse what the layer could not compute with."""
    if not all(isinstance(text, str) for text in (report.name, report.kind, report.note, report.method, report.tensor, report.each)):
        raise FormatError(
            f"a layer's name, kind, note, method, tensor and each are text, not {report.name!r}, {report.kind!r}, {report.note!r}"
        )
    lanes = lanes_of(fitted)
    if (report.step, report.format) != (fitted.step, lanes[0] if lanes else None):
        raise FormatError(f"layer {report.name!r}: format and step of the summary are not those of the input")
    LayerRule(fitted.method, report.weight_bits or 8)


def _input(manifest: dict[str, Any], report: LayerReport) -> Fitted:
    """What the layer computes with."""
    if manifest["version"] != 2:
        return fitted_from_json(manifest["inputs"][report.name])
    assert report.format is not None  # version 2 had nothing else
    return Fitted(method_of(report.format), report.format.signed, report.step)


def _arrangement(tensors: dict[str, torch.Tensor], prefix: str, integers: torch.Tensor, path: Path) -> Arrangement:
    """How the layer's channels meet its lanes; refused where it would not be a permutation or would divide by zero."""
    scale, order, lanes = tensors.get(prefix + "input_scale"), tensors.get(prefix + "lane_order"), integers.shape[1]
    if order is not None and (order.dtype != torch.int64 or not torch.equal(order.sort().values, torch.arange(lanes))):
        raise ModelFileError(f"{path}: {prefix + 'lane_order'!r} is not a permutation of {lanes} lanes")
    if scale is not None and (scale.shape != (lanes,) or not bool((scale > 0).all())):
        raise ModelFileError(f"{path}: {prefix + 'input_scale'!r} is not {lanes} positive numbers")
    rotation = tensors.get(prefix + "rotation")
    if rotation is not None and (rotation.dtype != torch.int64 or rotation.ndim or int(rotation) < 0):
        raise ModelFileError(f"{path}: {prefix + 'rotation'!r} is not the seed of a rotation")
    shift = tensors.get(prefix + "input_shift")
    if shift is not None and (shift.shape != (lanes,) or not bool(shift.isfinite().all())):
        raise ModelFileError(f"{path}: {prefix + 'input_shift'!r} is not {lanes} finite numbers")
    dead = tensors.get(prefix + "dead_zone")
    if dead is not None and (dead.shape != (2,) or not bool((dead.isfinite() & (dead >= 0)).all())):
        raise ModelFileError(f"{path}: {prefix + 'dead_zone'!r} is not two finite numbers that are not negative")
    return Arrangement(scale, order, rotation, shift, dead)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state to store: contiguous, on the CPU, each shared tensor under every name it has."""
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("_extra_state")}
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    wanted = _tensors(model)
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())[0]
        raise ModelFileError(f"{path}: tensor {odd!r} is {'missing' if odd in wanted else 'not part of this model'}")
    for key, value in tensors.items():
        if value.shape != wanted[key].shape:
            raise ModelFileError(f"{path}: {key!r} has shape {list(value.shape)}, the model wants {list(wanted[key].shape)}")
        if value.is_floating_point() != wanted[key].is_floating_point() or value.is_complex():
            raise ModelFileError(f"{path}: {key!r} holds {value.dtype}, the model wants {wanted[key].dtype}")
    model.load_state_dict({**model.state_dict(), **tensors})


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Manifest and tensors of a file whose digest is right."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {}).get("overq", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from error
    if not isinstance(manifest, dict) or "version" not in manifest:
        raise ModelFileError(f"{path}: a safetensors file, but not one that overq.save wrote")
    if manifest["version"] not in READ:
        raise ModelFileError(f"{path}: layout version {manifest['version']!r}; this overq reads versions {READ[0]} to {VERSION}")
    if manifest.pop("sha256", None) != _digest(tensors, manifest):
        raise ModelFileError(f"{path}: damaged: the stored digest is not that of the contents")
    return manifest, tensors


def _digest(tensors: dict[str, torch.Tensor], manifest: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
