"""ONNX files read with onnx-ir: damaged and foreign ones are one line, data outside the file's folder is not opened."""

from __future__ import annotations

import contextlib
import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overq.errors import InputError, ToolError
from overq.exchange.mapped import without_weights


def library(name: str) -> Any:
    """An optional library of the extra `onnx`."""
    try:
        return import_module(name)
    except ImportError as error:
        what = name.partition(".")[0].replace("_", "-")
        raise ToolError(f"ONNX files need {what}, which cannot be imported ({error}): pip install 'overq[onnx]'") from error


def loaded(path: Path) -> Any:
    """The file as an onnx_ir.Model; large weights are mapped, not read, and lie in the file's folder.

    InputError in one line for what is no ONNX model.
    """
    ir = library("onnx_ir")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        proto = library("onnx").ModelProto.FromString(without_weights(path))
        model = ir.from_proto(proto)
        if model.graph is None or not len(model.graph) or not model.graph.outputs:
            raise ValueError("it has no operators")
    except Exception as error:  # protobuf, numpy and onnx_ir each with their own exceptions
        raise InputError(f"{path}: not a readable ONNX model: {_line(error)}") from error
    folder = path.resolve().parent
    ir.external_data.set_base_dir(model.graph, folder)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            where = Path(folder, tensor.location).resolve()
            if folder not in where.parents:
                raise InputError(f"{path}: the data of {name!r} lies outside the file's folder: {tensor.location}")
            if not where.is_file():
                raise InputError(f"{path}: the data of {name!r} is missing: no file {tensor.location} beside it")
    logger = logging.getLogger("onnx_ir")
    before, logger.level = logger.level, logging.CRITICAL
    with contextlib.suppress(Exception):  # ranks then come from the file alone; who needs one that is not told is named
        library("onnx_ir.passes.common").ShapeInferencePass()(model)
    logger.level = before
    return model


def opened(path: Path) -> Any:
    """The same with all its data in memory."""
    model = loaded(path)
    try:
        library("onnx_ir").external_data.load_to_model(model)
    except Exception as error:
        raise InputError(f"{path}: unreadable data: {_line(error)}") from error
    return model


def tensor_of(value: Any, where: str) -> Tensor:
    """A constant's values, perhaps in the file's own memory: not to be written to. InputError where they do not fit its header."""
    try:
        array = np.asarray(value.numpy())
        if array.dtype.kind not in "fiub" or (array.dtype.itemsize == 2 and array.dtype.name == "bfloat16"):
            array = array.astype(np.float32)
        if array.dtype in (np.uint16, np.uint32, np.uint64):
            array = array.astype(np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about memory that must not be written to
            return torch.from_numpy(np.require(array, requirements="C"))
    except Exception as error:  # sizes that do not fit, types that numpy does not have, unreadable external data
        raise InputError(f"{where}: unreadable data: {_line(error)}") from error


def attributes(node: Any) -> dict[str, Any]:
    """Of a node, as numbers, texts, lists and tensors."""
    ir = library("onnx_ir")
    found: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR:
            found[name] = tensor_of(attribute.value, f"node {node.name!r}")
        elif isinstance(attribute.value, (tuple, list)):
            found[name] = list(attribute.value)
        else:
            found[name] = attribute.value
    return found


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
