"""Small networks of every idiom: each is in integers what it is in simulation, or is refused with the operation's name and option."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import overq
from overq.errors import InputError
from overq.integer import integer_network
from overq.integer import steps as steps_module
from overq.spec import Format
from zoo import FOLLOWED, REFUSED, Around, Middle, trained

PLAIN = overq.Recipe(Format.plain(8), calibration="max", first=None, last=None)


def quantized(middle: Middle, parts: dict[str, nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(6, 3, 12, 12)
    net = trained(Around(middle, **parts), x)
    return overq.quantize(net, [x], PLAIN), x


@pytest.mark.parametrize("name", FOLLOWED)
def test_integers_are_the_simulation(name: str) -> None:
    """Plain 8 bits: nothing but rounding of scales lies between them; more than 40 dB, and every step within its own rounding."""
    model, x = quantized(*FOLLOWED[name])
    net = integer_network(model, check=x[:2])
    with torch.no_grad():
        expected = model(x.clone()).double()
    got = net(x)
    assert got.dtype == torch.int64
    error = got * net.unit - expected
    assert 10 * torch.log10(expected.square().sum() / error.square().sum()) > 40
    assert net.sqnr is not None
    assert net.sqnr > 40


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_form_is_named(name: str) -> None:
    *network, words = REFUSED[name]
    model, _ = quantized(*network)
    with pytest.raises(InputError, match=words):
        integer_network(model)


def test_there_are_enough_of_them() -> None:
    assert len(FOLLOWED) + len(REFUSED) >= 60


def test_the_check_runs_by_itself_on_the_sample_that_quantize_kept() -> None:
    model, x = quantized(*FOLLOWED["DenseNet"])
    assert model.overq_example.shape == (1, 3, 12, 12)
    assert integer_network(model).sqnr > 40  # type: ignore[operator]
    assert integer_network(model, check=False).sqnr is None
    with pytest.raises(InputError, match=r"^check must be one input tensor of the model, not list$"):
        integer_network(model, check=[x])  # type: ignore[arg-type]


def test_a_step_that_computes_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself works: each wrong operation is found, and it is that one."""
    model, x = quantized(*FOLLOWED["average pool, border counted"])
    monkeypatch.setattr(steps_module, "ONE", ((1.01,), (0.0,)))
    with pytest.raises(InputError, match=r"^operation 'avg_pool2d' \(avg_pool2d\): its integers part from the simulation by "):
        integer_network(model, check=x)


def test_a_model_with_a_state_is_refused() -> None:
    class Stateful(Around):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x) * self.calls

    torch.manual_seed(0)
    x = torch.randn(6, 3, 12, 12)
    model = overq.quantize(trained(Stateful(lambda n, y: n.b(y)), x), [x], PLAIN)
    with pytest.raises(InputError, match=r"^the model gives another output each time it runs"):
        integer_network(model)
    before = model.calls
    integer_network(model, check=False)
    assert model.calls == before  # reading leaves no traces


def test_lanes_with_scales_of_their_own_are_followed() -> None:
    """Equalized layers: their readings divide channel by channel."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 12, 12)
    net = trained(Around(lambda n, y: n.c(F.relu(n.b(F.relu(y)))), c=nn.Conv2d(8, 8, 3, groups=2)), x)
    model = overq.quantize(net, [x], PLAIN.with_(equalize=0.5))
    assert sum(m.input_scale is not None for m in model.modules() if isinstance(m, overq.nn.Quantized)) >= 3
    assert integer_network(model, check=x[:2]).sqnr > 40  # type: ignore[operator]


def test_a_model_that_is_one_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 12)
    model = overq.quantize(nn.Linear(12, 5).eval(), [x], PLAIN)
    assert integer_network(model, check=x).sqnr > 40  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions_are_checked_within_theirs(dtype: torch.dtype) -> None:
    model, x = quantized(*FOLLOWED["MobileNetV2"])
    net = integer_network(model.to(dtype), check=x)
    assert net.sqnr is not None
    assert net.sqnr > (40 if dtype is torch.float64 else 20)
