"""`Recipe(range_bits="auto")`: each layer's second digits, of all that the array of one format can hold."""

from __future__ import annotations

import pytest
import torch

import overq
from overq.errors import FormatError
from overq.methods import METHODS, Dynamic, OverQ
from overq.nn.splits import formats, splits
from overq.spec import Format, accumulator_bits


@pytest.mark.parametrize(
    ("own", "held"),
    [
        (Format(4, 4), ["f4", "r3+f3", "r4"]),
        (Format(4, 4, 2, 2), ["r1+f3", "r2+f2", "r3+f1", "r4"]),
        (Format(4, 4, 2, 2, signed=True), ["f3", "r2+f2", "r3+f1", "r4"]),
        (Format(4, 4, 4, 4), ["r4+f4"]),
        (Format(3, 4, signed=True), ["f3", "r2+f2", "r3"]),
    ],
    ids=lambda value: value.label if isinstance(value, Format) else "",
)
def test_which_second_digits_an_array_can_hold(own: Format, held: list[str]) -> None:
    found = formats(own)
    assert [fmt.label.split()[1] for fmt in found] == held
    for fmt in found:
        assert fmt.state_bits <= own.state_bits
        assert accumulator_bits(fmt, 8, 64) <= accumulator_bits(own, 8, 64)
        assert (fmt.bits, fmt.cascade, fmt.signed) == (own.bits, own.cascade, own.signed)


def test_a_method_keeps_what_is_not_a_second_digit() -> None:
    method = Dynamic(OverQ(4, 8, policy="largest", lanes=16, evict=2), "rms", 16)
    found = splits(method, signed=True)
    assert found[0] == method
    assert {m.of.format(True).label for m in found} == {
        "A4s r3+f3 c8 largest evict2 tile16", "A4s r4 c8 largest evict2 tile16", "A4s f4 c8 largest tile16",
    }  # fmt: skip


class Net(torch.nn.Module):
    """Two layers of different inputs: `wide` gets outliers far beyond a digit, `fine` gets hardly any."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.fine = torch.nn.Linear(32, 32), torch.nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fine(torch.relu(self.wide(x)).clamp(max=1.0))


def test_each_layer_takes_what_errs_least() -> None:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(600, 32, generator=random).relu()
    x = torch.where(torch.rand(x.shape, generator=random) < 0.03, 40 * x, x)
    net, recipe = Net(), overq.Recipe(OverQ(4, 4, 2, 2), first=None, last=None)
    auto = overq.quantize(net, x, recipe.with_(range_bits="auto"))
    found = {r.name: r.format for r in overq.summary(auto).layers}
    assert found["wide"].range_bits > found["fine"].range_bits
    assert set(found.values()) <= set(formats(Format(4, 4, 2, 2)))
    assert all(fmt.label in str(overq.summary(auto)) for fmt in found.values())

    def error(model: torch.nn.Module) -> float:
        return (model(x) - net(x)).square().sum().item()

    assert error(auto) < error(overq.quantize(net, x, recipe))


def test_recipes_with_it_go_to_json_and_back_and_refuse_what_has_no_second_digit() -> None:
    recipe = overq.Recipe(range_bits="auto")
    assert overq.Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.default.range_bits == "auto"
    with pytest.raises(FormatError, match=r'^range_bits must be "auto", or None for those of the format, not 3$'):
        overq.Recipe(range_bits=3)
    with pytest.raises(FormatError, match=r'^range_bits="auto" chooses second digits, and .* has none$'):
        overq.Recipe(METHODS["sparq"](4), range_bits="auto")
