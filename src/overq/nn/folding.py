"""Folded rotation: a decoder whose residual stream and values are rotated, in its weights alone; nothing is added at run time.

After QuaRot (Ashkboos et al. 2024, arXiv 2404.00456), section 4, stage 1, and SpinQuant's R1 and R2 (Liu et al. 2024, arXiv 2405.16406):
an RMS norm without gain commutes with every rotation, so with the gains moved into the weights that read the normed stream, embedding
and writers may give the stream rotated, and readers undo it. Each head's values are rotated by the value projection's weights and turned
back by those of the output projection, which attention lets through. What is left unrotated is the input of the down projection (and
positions between heads).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from overq.errors import FidelityError, InputError
from overq.nn.rotation import rotated

TOLERANCE = 1e-3  # of the scores' norm: sums in another order, and nothing else


@dataclass(frozen=True)
class Family:
    """Names of a decoder's parts; those within a block follow the block's own name, `block` matches that.

    embedding, head     the first and the last matrix; norm: the gain before the head
    reads               (gain, the projections that read what it gives)
    writes              projections that add to the stream
    value, output       whose heads are rotated
    """

    name: str
    embedding: str
    block: str
    reads: tuple[tuple[str, tuple[str, ...]], ...]
    writes: tuple[str, ...]
    value: str
    output: str
    norm: str
    head: str


FAMILIES = (
    Family(
        "Llama, as transformers names it", "*embed_tokens", "*layers.[0-9]*",
        (("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
         ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))),
        ("self_attn.o_proj", "mlp.down_proj"), "self_attn.v_proj", "self_attn.o_proj", "*norm", "*lm_head",
    ),
    Family(
        "Llama, as GGUF names it", "token_embd", "blk.[0-9]*",
        (("attn_norm", ("attn_q", "attn_k", "attn_v")), ("ffn_norm", ("ffn_gate", "ffn_up"))),
        ("attn_output", "ffn_down"), "attn_v", "attn_output", "output_norm", "output",
    ),
)  # fmt: skip


def fold_rotation(model: nn.Module, example: Tensor | None = None, *, heads: int = 0, seed: int = 0) -> nn.Module:
    """A float copy of a Llama-like decoder that computes the same function, with its residual stream and its heads' values rotated.

    model    parts named as one of FAMILIES has them
    example  token numbers int64 [N, T] on which the copy is compared with the model (FidelityError where it differs)
    heads    attention heads of the output projection's input; 0 reads them from `model.config` or a block's `heads`
    seed     of the rotation's signs

    InputError: a model that is not of a known family, or whose norms do not commute with rotations.
    """
    made = copy.deepcopy(model)
    parts = dict(made.named_modules())
    family, names = _family(parts)
    heads = heads or _heads(made, parts, names[0])
    width = _matrix(parts, _one(parts, family.embedding)).shape[-1]
    for at, block in enumerate(names):
        for gain, readers in family.reads:
            _read(parts, f"{block}.{gain}", [f"{block}.{reader}" for reader in readers], seed)
        for writer in family.writes:
            _write(parts, f"{block}.{writer}", seed)
        _rotate_values(parts, f"{block}.{family.value}", f"{block}.{family.output}", width // heads, seed + 1 + at)
    head = _one(parts, family.head)
    parts[head].weight = nn.Parameter(_matrix(parts, head).clone(), requires_grad=False)  # often the embedding's own
    _read(parts, _one(parts, family.norm), [head], seed)
    _set(parts[_one(parts, family.embedding)], rotated(_matrix(parts, _one(parts, family.embedding)), seed))
    if example is not None:
        _check(model, made, example)
    return made


def _family(parts: dict[str, nn.Module]) -> tuple[Family, list[str]]:
    """The family that the names are of, and its blocks in order."""
    for family in FAMILIES:
        inside = [*(part for gain, readers in family.reads for part in (gain, *readers)), *family.writes]
        blocks = [name for name in parts if fnmatchcase(name, family.block) and all(f"{name}.{part}" in parts for part in inside)]
        if blocks and all(any(fnmatchcase(name, pattern) for name in parts) for pattern in (family.embedding, family.norm, family.head)):
            return family, blocks
    raise InputError(
        f"rotation is folded into decoders of the families {'; '.join(family.name for family in FAMILIES)}; this model is none"
    )


def _heads(model: nn.Module, parts: dict[str, nn.Module], block: str) -> int:
    found = getattr(getattr(model, "config", None), "num_attention_heads", 0) or getattr(parts[block], "heads", 0)
    if not found:
        raise InputError("the number of attention heads is not known: give heads=")
    return int(found)


def _one(parts: dict[str, nn.Module], pattern: str) -> str:
    return min((name for name in parts if fnmatchcase(name, pattern) and getattr(parts[name], "weight", None) is not None), key=len)


def _matrix(parts: dict[str, nn.Module], name: str) -> Tensor:
    weight = getattr(parts[name], "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(f"layer {name!r} has no float weight to fold a rotation into")
    return weight.detach()


def _set(module: nn.Module, weight: Tensor) -> None:
    """A weight of its own, so that a tied one keeps what it was."""
    old: Tensor = module.weight  # type: ignore[assignment]
    module.weight = nn.Parameter(weight.to(old.dtype), requires_grad=old.requires_grad)


def _read(parts: dict[str, nn.Module], gain: str, readers: list[str], seed: int) -> None:
    """Move a norm's gain into what reads it, and turn the stream back there."""
    norm = parts[gain]
    if getattr(norm, "bias", None) is not None or not _commutes(norm):
        raise InputError(f"{gain!r}, a {type(norm).__name__}, does not commute with rotations as an RMS norm without bias does")
    scale = _matrix(parts, gain).double()
    for name in readers:
        _set(parts[name], rotated(_matrix(parts, name).double() * scale, seed))
    _set(norm, torch.ones_like(scale))


def _commutes(norm: nn.Module) -> bool:
    """Whether it divides a vector by its rms, and by nothing else, but for its gain."""
    gain = cast(Tensor, norm.weight).detach()
    x = torch.randn(4, len(gain), generator=torch.Generator().manual_seed(0)).to(gain)
    with torch.no_grad():
        return bool(torch.allclose(norm(x), x / x.square().mean(-1, keepdim=True).sqrt() * gain, rtol=1e-2, atol=1e-3))


def _write(parts: dict[str, nn.Module], name: str, seed: int) -> None:
    _set(parts[name], rotated(_matrix(parts, name).double(), seed, 0))
    bias = getattr(parts[name], "bias", None)
    if bias is not None:
        parts[name].bias = nn.Parameter(rotated(bias.detach().double(), seed).to(bias.dtype), requires_grad=bias.requires_grad)


def _rotate_values(parts: dict[str, nn.Module], value: str, output: str, size: int, seed: int) -> None:
    """Rotate every head's values by one rotation: rows of the value projection, columns of the output projection."""
    rows = _matrix(parts, value).double().unflatten(0, (-1, size))
    _set(parts[value], rotated(rows, seed, 1).flatten(0, 1))
    bias = getattr(parts[value], "bias", None)
    if bias is not None:
        turned = rotated(bias.detach().double().unflatten(0, (-1, size)), seed).flatten()
        parts[value].bias = nn.Parameter(turned.to(bias.dtype), requires_grad=bias.requires_grad)
    columns = _matrix(parts, output).double().unflatten(1, (-1, size))
    _set(parts[output], rotated(columns, seed, 2).flatten(1, 2))


@torch.no_grad()
def _check(model: nn.Module, made: nn.Module, example: Tensor) -> None:
    wanted, got = (getattr(y, "logits", y).double() for y in (model(example), made(example)))
    if not float((wanted - got).norm()) <= TOLERANCE * float(wanted.norm()):
        raise FidelityError("the model with its rotation folded in computes something else: its parts are not wired as their names say")
