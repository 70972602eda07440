"""Checkpoints as training tools write them: loaded where only wrapping differs, with a word; else the way out is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from overq.errors import InputError, OverqWarning
from overq.study.checkpoints import load_weights
from overq.study.models import load_model

State = dict[str, torch.Tensor]


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.Flatten(), nn.Linear(8, 4)))


def state() -> State:
    torch.manual_seed(1)
    return {key: torch.randn_like(value) if value.is_floating_point() else value + 3 for key, value in net().state_dict().items()}


def begin(prefix: str) -> Callable[[State], State]:
    return lambda s: {prefix + key: value for key, value in s.items()}


def without(*ends: str) -> Callable[[State], State]:
    return lambda s: {key: value for key, value in s.items() if not key.endswith(ends)}


COUNTERS = {"total_ops": torch.zeros(1), "total_params": torch.zeros(1), "0.total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}
LOADS: dict[str, tuple[Callable[[State], object], str | None]] = {
    "as it is": (lambda s: s, None),
    "training script": (lambda s: {"epoch": 3, "optimizer": {"param_groups": []}, "model_state_dict": s}, None),
    "one level more": (lambda s: {"model": {"state_dict": s}, "lr": 0.1}, None),
    "two levels more": (lambda s: {"state": {"model": {"state_dict": s}}}, None),
    "DataParallel": (begin("module."), "removed the prefix 'module.'"),
    "compiled": (begin("_orig_mod."), "removed '_orig_mod.' from the names"),
    "Lightning": (lambda s: {"state_dict": begin("model.")(s), "hyper_parameters": {}}, "removed the prefix 'model.'"),
    "net": (begin("net."), "removed the prefix 'net.'"),
    "both": (begin("module._orig_mod.model."), "removed '_orig_mod.' from the names; removed the prefix 'module.model.'"),
    "compiled in parts": (lambda s: {key.replace("2.", "2._orig_mod."): v for key, v in s.items()}, "removed '_orig_mod.' from the names"),
    "own prefix": (begin("encoder.backbone."), "removed the prefix 'encoder.backbone.'"),
    "profiler": (lambda s: s | COUNTERS, "left out 4 counters (total_ops, total_params)"),
    "profiler of a prefix": (
        lambda s: begin("module.")(s | COUNTERS), "left out 4 counters (total_ops, total_params); removed the prefix 'module.'",
    ),
    "averaged": (
        lambda s: begin("module.")(s) | {"n_averaged": torch.tensor(7)}, "left out 1 counters (n_averaged); removed the prefix 'module.'",
    ),
    "before torch 0.4.1": (without("num_batches_tracked"), "the file has no num_batches_tracked, which nothing depends on here"),
    "old and prefixed": (
        lambda s: begin("module.")(without("num_batches_tracked")(s)),
        "removed the prefix 'module.'; the file has no num_batches_tracked, which nothing depends on here",
    ),
    "two states": (lambda s: {"state_dict": s, "model_ema": begin("x.")(s)}, "read 'state_dict', not 'model_ema'"),
    "half": (lambda s: {key: v.half() if v.is_floating_point() else v for key, v in s.items()}, None),
    "double": (lambda s: {key: v.double() if v.is_floating_point() else v for key, v in s.items()}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOADS)
def test_what_differs_in_its_wrapping_only_is_loaded_with_a_word(tmp_path: Path, name: str) -> None:
    make, words = LOADS[name]
    torch.save(make(state()), tmp_path / "c.pt")
    model = net()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_weights(model, tmp_path / "c.pt")
    assert [str(w.message) for w in said] == ([f"{tmp_path}/c.pt: {words}"] if words else [])
    own = net().state_dict()
    for key, value in model.state_dict().items():
        expected = own[key] if key.endswith("tracked") and "num_batches" in (words or "") else state()[key]
        assert torch.allclose(value, expected, rtol=2e-3)


def test_a_prefix_that_the_model_has_and_the_file_has_not(tmp_path: Path) -> None:
    outer = nn.ModuleDict({"backbone": net()})
    save_file(state(), tmp_path / "c.safetensors")
    with pytest.warns(OverqWarning, match="added the prefix 'backbone.'$"):
        load_weights(outer, tmp_path / "c.safetensors")
    assert torch.equal(outer["backbone"][0].weight, state()["0.weight"])
    compiled = nn.ModuleDict({"module": net()})
    save_file(begin("module.")(state()), tmp_path / "c.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(compiled, tmp_path / "c.safetensors")  # the model's own names are not stripped


def test_a_tied_tensor_that_is_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

    save_file({"embedding.weight": torch.ones(6, 4)}, tmp_path / "c.safetensors")
    model = Tied()
    with pytest.warns(OverqWarning, match=r"'head.weight' is 'embedding.weight', to which the model ties it$"):
        load_weights(model, tmp_path / "c.safetensors")
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, torch.ones(6, 4))


def changed(**values: torch.Tensor) -> Callable[[State], State]:
    return lambda s: s | {key.replace("_", "."): value for key, value in values.items()}


WIDE = torch.zeros(8, 3, 3, 3)
REFUSED: dict[str, tuple[Callable[[State], object], str]] = {
    "more beside the prefix": (
        lambda s: begin("model.")(s) | {"criterion.weight": torch.ones(2)},
        "does not fit Sequential: it lacks '0.bias' and has 'criterion.weight', which the model does not (9 missing, 10 unknown tensors); "
        "keep only the names that begin with 'model.': these are the model's",
    ),
    "part": (without("weight"), "it lacks '0.weight' (3 missing, 0 unknown tensors); save model.state_dict() of the same architecture"),
    "more": (
        lambda s: s | {"9.x": WIDE},
        "it has '9.x', which the model does not (0 missing, 1 unknown tensors); leave the unknown ones out",
    ),
    "another": (lambda s: {"a": WIDE}, "(9 missing, 1 unknown tensors); no name is the model's: is it another architecture?"),
    "part with prefix": (
        lambda s: begin("net.")(without("mean")(s)), "8 of the model's 9 tensors are there with the prefix 'net.'; the rest must be too",
    ),
    "classes": (
        lambda s: s | {"2.1.weight": torch.zeros(10, 8)},
        "'2.1.weight' has shape [10, 8], the model wants [4, 8]; the factory must make it with 10 outputs",
    ),
    "complex": (changed(**{"0_weight": WIDE.to(torch.complex64)}), "'0.weight' is complex; quantization is for real weights"),
    "quantized": (
        lambda s: s | {"0.weight": torch.quantize_per_tensor(WIDE, 0.1, 0, torch.qint8)}, "'0.weight' is quantized; store it dense",
    ),
    "sparse": (changed(**{"0_weight": WIDE.to_sparse()}), "'0.weight' is sparse; store it dense and in floating point"),
    "integer": (changed(**{"0_weight": WIDE.to(torch.int8)}), "'0.weight' holds torch.int8, the model wants floating point"),
    "bool": (changed(**{"0_weight": WIDE.bool()}), "'0.weight' holds torch.bool"),
    "nan": (changed(**{"0_weight": WIDE / 0}), "'0.weight' holds NaN"),
    "infinite": (changed(**{"0_weight": (WIDE + 1) / 0}), "'0.weight' holds values beyond torch.float32 or infinity"),
    "beyond float32": (changed(**{"0_weight": WIDE.double() + 1e300}), "'0.weight' holds values beyond torch.float32 or infinity"),
    "float counter": (lambda s: s | {"1.num_batches_tracked": torch.tensor(1.5)}, "'1.num_batches_tracked' holds torch.float32"),
    "meta": (changed(**{"0_weight": WIDE.to("meta")}), "'0.weight' holds no data"),
    "empty": (lambda s: {}, "is not a state_dict of tensors"),
    "numbers": (lambda s: {"a": 1}, "is not a state_dict of tensors"),
    "integer names": (lambda s: {0: WIDE}, "is not a state_dict of tensors"),
    "list": (lambda s: [WIDE], "is not a state_dict of tensors"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch on quantized tensors
@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_and_the_model_left_as_it_was(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    torch.save(make(state()), tmp_path / "c.pt")
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError) as refused:
        load_weights(model, tmp_path / "c.pt")
    assert str(refused.value).startswith(f"{tmp_path}/c.pt")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_lazy_model_says_so(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "c.pt")
    with pytest.raises(InputError, match="cannot be loaded into LazyLinear: "):
        load_weights(nn.LazyLinear(3), tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys\nsys.exit(3)", "running .* failed: SystemExit: 3$"),
        ("def net(): raise SystemExit('no')", "the factory failed: SystemExit: no$"),
        ("def net(): return net()", "the factory failed: RecursionError: "),
        ("net = 3", "has no factory 'net'; it has none$"),
        ("def net(a): return a", "the factory failed: TypeError: "),
        ("\0", "running .* failed: "),
        ("1/0", "running .* failed: ZeroDivisionError: division by zero$"),
    ],
)
def test_whatever_a_model_file_does_is_one_line(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "nets.py").write_text(code)
    with pytest.raises(InputError, match=words):
        load_model(f"{tmp_path}/nets.py:net")


def test_a_package_that_fails_in_any_way_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_package.py").write_text("raise ValueError('broken\\nbuild')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="cannot import failing_package: ValueError: broken build$"):
        load_model("failing_package:net")
    with pytest.raises(InputError, match="cannot import ..x: TypeError"):
        load_model("..x:net")
