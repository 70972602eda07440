"""The only reader of torch.fx graphs: a model as a list of nodes, each of one kind (see `nn.kinds`).

What a node reads is followed through in-place operations: after `relu_(x)` every later reader of x, and of what is the same tensor
(an Identity's output, an evaluated Dropout's), reads the ReLU's node. A reader of what only shares memory with a changed tensor (a
slice, a reshaped view) becomes Unknown, with the reason. `x += y` counts as the in-place addition that it is; torch.fx alone reads
it as x = x + y. Models are read as in evaluation, with the defaults of forward's optional arguments.
"""

from __future__ import annotations

import dis
import inspect
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from overq.errors import InputError
from overq.nn.candidates import can_quantize
from overq.nn.kinds import (
    Constant,
    Conv,
    Flatten,
    Input,
    Linear,
    Move,
    Norm,
    Number,
    Op,
    Output,
    Part,
    Pick,
    Ref,
    Reshape,
    Same,
    Split,
    Unknown,
)
from overq.nn.options import FUNCTIONS, MANY, parse, parse_module
from overq.nn.quantized import Quantized
from overq.nn.recurrent import KINDS


@dataclass(frozen=True)
class Node:
    """One operation.

    name     torch.fx's, unique
    what     the module's class or the function's name, for messages
    op       its kind
    inputs   names of the nodes whose values it reads, each once, in the order of its arguments
    operands those of them that are tensors, as often as they are read
    target   dotted name of its module, parameter or buffer; empty for functions
    module   where it is one
    tensor   the value of a Constant
    run      does to the inputs' values what the framework does, whatever the kind
    """

    name: str
    what: str
    op: Op
    inputs: tuple[str, ...]
    operands: tuple[str, ...]
    run: Callable[..., Any]
    target: str = ""
    module: nn.Module | None = None
    tensor: Tensor | None = None

    @property
    def why(self) -> str:
        """What hinders an Unknown, in one phrase."""
        reason = self.op.why if isinstance(self.op, Unknown) else ""
        return f"operation {self.name!r} ({self.what}){': ' + reason if reason else ''}"


@dataclass(frozen=True)
class Graph:
    """nodes in execution order; the last one is the Output."""

    nodes: tuple[Node, ...]

    def live(self) -> tuple[Node, ...]:
        """Those that the output depends on, and the inputs."""
        wanted: set[str] = set()
        for node in reversed(self.nodes):
            if isinstance(node.op, Output) or node.name in wanted:
                wanted.update((node.name, *node.inputs))
        return tuple(n for n in self.nodes if n.name in wanted or isinstance(n.op, Input))

    def run(self, x: Tensor) -> Iterator[tuple[Node, Any]]:
        """(node, value) of every live node on one input, in order: what the model computes, as it was read."""
        values: dict[str, Any] = {}
        live = self.live()
        last = {name: i for i, node in enumerate(live) for name in node.inputs}
        for i, node in enumerate(live):
            values[node.name] = x if isinstance(node.op, Input) else node.run(*[values[name] for name in node.inputs])
            yield node, values[node.name]
            for name in {name for name in node.inputs if last[name] == i}:
                del values[name]


def is_norm(module: nn.Module | None) -> TypeGuard[_BatchNorm]:
    """A batch norm that runs the framework's own forward."""
    return isinstance(module, _BatchNorm) and type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def read(model: nn.Module) -> Graph:
    """InputError where torch.fx cannot trace the model: data-dependent control flow, assignment to a part of a tensor, …"""
    graph, constants, training = _traced(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    return Graph(tuple(_Reader(modules, constants, training).nodes(graph)))


def _inplace(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


# torch.fx's own proxies lack these: Python falls back to x = x + y, which leaves x's other readers unchanged
INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul")
_OPERATORS = {f"__{name}__": _inplace(getattr(operator, name)) for name in INPLACE}
_Attribute = type("_Attribute", (fx.proxy.Attribute,), _OPERATORS)


class _Proxy(fx.Proxy):
    def __getattr__(self, name: str) -> Any:
        return _Attribute(self, name)


for _name, _operator in _OPERATORS.items():
    setattr(_Proxy, _name, _operator)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else `self.count += 1` would change the model while it is read

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Assertions on shapes and values hold, as they do when the model runs; any other decision on a value cannot be followed."""
        frame = inspect.currentframe()
        caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
        return (caller is not None and _asserts(caller)) or super().to_bool(obj)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m) or super().is_leaf_module(m, module_qualified_name)


def _asserts(frame: FrameType) -> bool:
    """Whether the frame is at the test of an assert statement."""
    code = list(dis.get_instructions(frame.f_code))
    at = next(i for i, instruction in enumerate(code) if instruction.offset == frame.f_lasti)
    jump, *later = [i for i in code[at:] if i.opname not in ("CACHE", "TO_BOOL", "NOT_TAKEN")][:3]
    return "IF_TRUE" in jump.opname and later[0].opname in ("LOAD_ASSERTION_ERROR", "LOAD_COMMON_CONSTANT")


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, (Quantized, *KINDS)) or can_quantize(module) or is_norm(module)


def _alone() -> fx.Graph:
    """A model that is one layer."""
    graph = fx.Graph()
    graph.output(graph.create_node("call_module", "", (graph.placeholder("x"),), name="layer"))
    return graph


def _traced(model: nn.Module) -> tuple[fx.Graph, dict[str, Tensor], set[nn.Module]]:
    """(graph, its constant tensors by name, modules that evaluation leaves in training); the model is left as it was."""
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    given = {p.name: p.default for p in inspect.signature(model.forward).parameters.values() if p.default is not p.empty}
    try:
        model.eval()
        training = {module for module in model.modules() if module.training}
        if _is_leaf(model):
            return _alone(), {}, training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.fx about defaults that are neither numbers nor None
            graph = _Tracer().trace(model, concrete_args=given or None)
        attributes = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
        return graph, {name: tensor for name in attributes if isinstance(tensor := _attribute(model, name), Tensor)}, training
    except Exception as error:  # tracing runs the model's own code: whatever that does with a symbolic value
        raise InputError(f"the model cannot be traced: {' '.join(str(error).split())[:200]}") from error
    finally:
        for module, attributes_before, buffers in before:  # what forward assigned, and the constant tensors that torch.fx keeps there
            module._buffers.update(buffers)
            vars(module).clear()
            vars(module).update(attributes_before)


def _attribute(model: nn.Module, name: str) -> Any:
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _canonical() -> dict[Any, tuple[str, bool]]:
    """Function -> (name in kinds.FUNCTIONS, whether it works in place)."""
    found: dict[Any, tuple[str, bool]] = {}
    for owner in (torch, F, torch.special, operator):
        for name in FUNCTIONS:
            for spelled, inplace in ((name, False), (f"{name}_", True)):
                if (function := getattr(owner, spelled, None)) is not None:
                    found[function] = name, inplace
    named = {operator.iadd: "add", operator.isub: "sub", operator.imul: "mul", operator.itruediv: "div"}
    return found | {function: (name, True) for function, name in named.items()}


CANONICAL = _canonical()
ATTRIBUTES: dict[str, Op] = {"data": Same("detach"), "T": Move("t"), "mT": Move("t")}
SHAPE_METHODS = ("size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "get_device")
ALIASES = ("identity", "dropout", "detach")  # Same that is the very tensor; "contiguous" may be
FRESH = ("stack", "roll", "flip", "repeat", "tile", "clone")  # neither shares memory with what it reads


class _Reader:
    """Kinds of nodes, and who changes whom in place."""

    def __init__(self, modules: dict[str, nn.Module], constants: dict[str, Tensor], training: set[nn.Module]) -> None:
        self.modules, self.constants, self.training = modules, constants, training
        self.made: dict[fx.Node, Node] = {}
        self.current: dict[fx.Node, fx.Node] = {}  # whose value a node's tensor holds now
        self.tensor: dict[fx.Node, fx.Node] = {}  # nodes with the same one are the same tensor
        self.memory: dict[fx.Node, fx.Node] = {}  # nodes with the same one may share memory
        self.stale: dict[fx.Node, str] = {}

    def nodes(self, graph: fx.Graph) -> Iterator[Node]:
        for node in graph.nodes:
            made = self._node(node)
            self.made[node] = made
            if not (isinstance(made.op, Number) and not node.users) and "_assert" not in made.what:
                yield made

    def _node(self, node: fx.Node) -> Node:
        read = list(dict.fromkeys(n for n in node.all_input_nodes))
        op, what, inplace = self._kind(node)
        out = [n for n in read if n is node.kwargs.get("out")]
        spoilt = [f"reads {n.name!r} after {self.stale[n]!r} changed memory that it shares" for n in read if n in self.stale]
        if spoilt and not isinstance(op, Number):
            op = Unknown(spoilt[0])
        before = {n: self.current.get(n, n) for n in read}
        self.current[node] = self.tensor[node] = self.memory[node] = node
        tensors = [n for n in read if not isinstance(self.made[n].op, Number)]
        if out or (inplace and tensors):
            op = self._change(node, [*out, *tensors][0], op)
        elif tensors and _shares(op):
            self.memory[node] = self.memory[tensors[0]]
            if isinstance(op, Same) and op.name in ALIASES:
                self.tensor[node], self.current[node] = self.tensor[tensors[0]], node
        inputs = tuple(dict.fromkeys(before[n].name for n in read))
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        target = str(node.target) if node.op in ("call_module", "get_attr") else ""
        constant = self.constants.get(target) if node.op == "get_attr" else None
        found: list[fx.Node] = []
        fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: found.append(n) or n)  # type: ignore[func-returns-value]
        operands = tuple(before[n].name for n in found if not isinstance(self.made[n].op, Number))
        return Node(node.name, what, op, inputs, operands, _runner(node, before, module, constant), target, module, constant)

    def _change(self, node: fx.Node, changed: fx.Node, op: Op) -> Op:
        """`node` changed a tensor in place: its readers follow, and what only shares its memory goes stale."""
        for other in list(self.memory):
            if other is not node and self.memory[other] is self.memory[changed]:
                if self.tensor[other] is self.tensor[changed]:
                    self.current[other] = node
                else:
                    self.stale[other] = node.name
        self.memory[node], self.tensor[node] = self.memory[changed], self.tensor[changed]
        if isinstance(self.made[changed].op, Constant):
            return Unknown("changes a parameter or buffer in place")
        return Unknown("changes a tensor's shape in place") if isinstance(op, (Move, Split, Pick)) else op

    def _kind(self, node: fx.Node) -> tuple[Op, str, bool]:
        """(kind, what it is called, whether it changes its first operand)."""
        if node.op == "placeholder":
            return (Input() if not node.args else Number()), "input", False
        if node.op == "output":
            return Output(isinstance(node.args[0], fx.Node)), "output", False
        if node.op == "get_attr":
            module = self.modules.get(str(node.target).rpartition(".")[0])
            known = str(node.target) in self.constants
            assigned = not known and str(node.target).rpartition(".")[2] in getattr(module, "_buffers", ())
            return Unknown("forward assigns to it") if assigned else Constant() if known else Number(), "buffer", False
        if node.op == "call_module":
            return self._module(node)
        what = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        args, named = _arguments(node, self._ref)
        if (number := self._number(node)) is not None:
            return number, what, False
        if node.target is operator.getitem:
            return self._getitem(node, args[1]), what, False
        if node.target is getattr:
            return ATTRIBUTES.get(args[1], Unknown(f"attribute {args[1]}")), what, False
        if node.target == "float" and not args[1:]:
            return Same("float"), what, False
        if node.op == "call_method":
            name, spelled = what.removesuffix("_"), _spelled_in_place(what)
        elif node.target in CANONICAL:
            name, spelled = CANONICAL[node.target]
        else:
            return Unknown(), _boolean_dispatch(node.target) or what, named.get("inplace") is True or _spelled_in_place(what)
        op, inplace = parse(name, args, named)
        return op, _named(what, name), inplace or spelled

    def _module(self, node: fx.Node) -> tuple[Op, str, bool]:
        module = self.modules[str(node.target)]
        what = type(module).__name__
        inplace = bool(getattr(module, "inplace", False))
        if module._forward_hooks or module._forward_pre_hooks:
            return Unknown("it has forward hooks"), what, inplace
        if "forward" in vars(module):
            return Unknown("its forward is patched"), what, inplace
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and (isinstance(module, Quantized) or can_quantize(module)):
            op: Op = Linear() if isinstance(module, nn.Linear) else Conv()
        elif is_norm(module):
            op = Norm() if module not in self.training else Unknown("it stays in training mode")
        else:
            op, inplace = parse_module(module, training=module in self.training)
        tensors = [n for n in node.all_input_nodes if not isinstance(self.made[n].op, Number)]
        if len(node.args) + len(node.kwargs) != 1 or len(tensors) != 1:
            op = Unknown("it is called with more than one tensor")
        return op, what, inplace

    def _number(self, node: fx.Node) -> Number | None:
        """Extents, and what is computed of nothing else."""
        read = node.all_input_nodes
        if node.op == "call_method" and node.target in SHAPE_METHODS:
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            return Number((read[0].name, dim) if node.target == "size" and isinstance(dim, int) else None)
        if node.target is getattr and isinstance(self.made[read[0]].op, Number):
            return Number()
        if node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device", "is_cuda", "layout", "requires_grad"):
            return Number()
        if node.target is len and read:
            return Number((read[0].name, 0))
        if not read or not all(isinstance(self.made[n].op, Number) for n in read):
            return None
        source = read[0]
        whole = source.op == "call_method" and source.target == "size" and len(source.args) + len(source.kwargs) == 1
        whole = whole or (source.target is getattr and source.args[1] == "shape")
        if node.target is operator.getitem and whole and isinstance(node.args[1], int):
            return Number((source.all_input_nodes[0].name, node.args[1]))
        return Number()

    def _getitem(self, node: fx.Node, index: Any) -> Op:
        source = self.made[node.all_input_nodes[0]].op
        if isinstance(source, Split) or (isinstance(source, Move) and source.name in MANY):
            return Part(index) if isinstance(index, int) else Unknown("indexes several tensors at once")
        found: list[Ref] = []
        fx.node.map_aggregate((index,), lambda value: found.append(value) if isinstance(value, Ref) else value)
        if any(not ref.number for ref in found):
            return Unknown("indexes with a tensor")
        return Move("getitem") if found else Pick(index if isinstance(index, tuple) else (index,))

    def _ref(self, node: fx.Node) -> Ref:
        op = self.made[node].op
        size = op.size if isinstance(op, Number) else None
        return Ref(node.name, isinstance(op, Number), size)


def _shares(op: Op) -> bool:
    """Whether the result may share memory with the first operand."""
    name = getattr(op, "name", "")
    return isinstance(op, (Same, Move, Pick, Split, Part, Flatten, Reshape, Unknown)) and name not in FRESH


def _spelled_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _boolean_dispatch(function: Any) -> str:
    """F.max_pool3d and its like are nameless closures."""
    return next((name for name, value in vars(F).items() if value is function), "")


def _named(what: str, name: str) -> str:
    return name if what in ("fn", "boolean_dispatch") else what


def _arguments(node: fx.Node, of: Callable[[fx.Node], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) with `of(n)` in place of every node."""
    mapped: Any = fx.node.map_arg((node.args, dict(node.kwargs)), of)
    return tuple(mapped[0]), dict(mapped[1])


def _runner(node: fx.Node, before: dict[fx.Node, fx.Node], module: nn.Module | None, constant: Any) -> Callable[..., Any]:
    """The operation itself, on values in the order of `Node.inputs`."""
    places = {name: i for i, name in enumerate(dict.fromkeys(n.name for n in before.values()))}
    where = {n: places[m.name] for n, m in before.items()}

    def run(*values: Any) -> Any:
        args, named = _arguments(node, lambda n: values[where[n]])
        if node.op == "call_module":
            assert module is not None
            return module(*args, **named)
        if node.op == "call_function":
            return node.target(*args, **named)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **named)
        if node.op == "output":
            return args[0]
        return constant if node.op == "get_attr" else (node.args[0] if node.args else None)

    return run
