"""The summary says what is quantized and what is not, in every form, whatever the names hold."""

from __future__ import annotations

import html.parser
import json
import math
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import overq
from overq import Format, LayerRule, Recipe
from overq.datafree import observe_statistics
from overq.errors import MostlyFloatWarning, OverqWarning, ToolError
from overq.nn import Summary
from overq.nn.compute import counted

ALL = Recipe(Format(4, 2), first=None, last=None)


def summary(model: nn.Module, samples: Any, recipe: Recipe = ALL, **options: Any) -> Summary:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MostlyFloatWarning)
        return overq.summary(overq.quantize(model.eval(), samples, recipe, **options))


class OwnLSTM(nn.LSTM):
    """A class of somebody's own stays float."""


class OwnGRU(nn.GRU):
    """Likewise."""


class OwnCell(nn.LSTMCell):
    """Likewise."""


class Parts(nn.Module):
    """One way to multiply in float beside one linear layer of as many multiply-accumulates as are asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.lin = kind, nn.Linear(8, 8)
        self.other = {
            "lstm": lambda: OwnLSTM(8, 8, batch_first=True), "gru": lambda: OwnGRU(8, 8, 2, batch_first=True, bidirectional=True),
            "cell": lambda: OwnCell(8, 8),
            "mha": lambda: nn.MultiheadAttention(8, 2, batch_first=True), "bilinear": lambda: nn.Bilinear(8, 8, 3),
            "unused": lambda: nn.Linear(8, 6),
            "embedding": lambda: nn.Embedding(5, 8),
        }.get(kind, nn.Identity)()  # fmt: skip
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.experts = nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lin(x)
        z: torch.Tensor = {
            "lstm": lambda: self.other(y)[0], "gru": lambda: self.other(y)[0], "cell": lambda: self.other(y[:, 0])[0][:, None],
            "mha": lambda: self.other(y, y, y)[0], "bilinear": lambda: self.other(y, y),
            "unused": lambda: F.linear(y, self.other.weight), "embedding": lambda: self.other(torch.zeros(len(y), dtype=torch.long)),
            "sdpa": lambda: F.scaled_dot_product_attention(y, y, y), "matmul": lambda: y @ y.transpose(1, 2),
            "einsum": lambda: torch.einsum("btk,bsk->bts", y, y), "bmm": lambda: torch.bmm(y, y.transpose(1, 2)),
            "weight": lambda: y @ self.weight, "conv": lambda: F.conv1d(y.transpose(1, 2), self.weight.T[..., None]),
            "experts": lambda: torch.einsum("btk,ekn->betn", y, self.experts),
        }[self.kind]()  # fmt: skip
        return z.flatten(1)


N, T = 6, 5  # samples and positions; counted are the last two of the first three
LIN = T * 8 * 8
REST = {  # kind -> (multiply-accumulates of one sample, what they are called, where)
    "lstm": (T * 4 * 8 * (8 + 8), "OwnLSTM", "other"),
    "gru": (2 * T * 3 * 8 * (8 + 8) + 2 * T * 3 * 8 * (16 + 8), "OwnGRU", "other"),
    "cell": (4 * 8 * (8 + 8), "OwnCell", "other"),
    "sdpa": (T * T * 16, "scaled_dot_product_attention", ""),
    "matmul": (T * T * 8, "matmul of two activations (@, bmm, einsum)", ""),
    "einsum": (T * T * 8, "matmul of two activations (@, bmm, einsum)", ""),
    "bmm": (T * T * 8, "matmul of two activations (@, bmm, einsum)", ""),
    "conv": (T * 8 * 6, "Parts", ""),
    "unused": (T * 8 * 6, "linear called as a function", ""),
    "bilinear": (T * (3 * 64 + 24), "Bilinear", "other"),
    "embedding": (0, "", ""),
}


@pytest.mark.parametrize("kind", REST)
def test_every_way_to_multiply_is_counted_and_named(kind: str) -> None:
    found = summary(Parts(kind), torch.randn(N, T, 8))
    macs, what, place = REST[kind]
    assert found.quantized_share == pytest.approx(LIN / (LIN + macs), rel=1e-12)
    rest = [(part.what, part.macs // 2, part.places) for part in found.shares if not part.quantized]
    assert rest == ([(what, macs, (place,))] if macs else [])
    assert [(part.what, part.macs // 2, part.places) for part in found.shares if part.quantized] == [("A4 W8", LIN, ("lin",))]
    assert "MACs" in str(found)
    assert f"{100 * found.quantized_share:.1f} % of the multiply-accumulates are quantized" in str(found)


def test_attention_s_two_products_are_the_rest() -> None:
    found = summary(Parts("mha"), torch.randn(N, T, 8))
    rest = {part.what: part.macs // 2 for part in found.shares if not part.quantized}
    assert sum(rest.values()) == 2 * T * T * 8
    assert all(part.places == ("other",) for part in found.shares if not part.quantized)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(6, 4, 3, padding=1, stride=2, groups=2), nn.Conv1d(6, 4, 3), nn.Linear(6, 4, bias=False),
    nn.ConvTranspose2d(6, 4, 3, stride=2), nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
])  # fmt: skip
def test_a_layer_s_count_is_pytorch_s_own(layer: nn.Module) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.randn({nn.Conv1d: (2, 6, 9), nn.Linear: (2, 5, 6)}.get(type(layer), (2, 6, 9, 9)))
    with torch.no_grad(), FlopCounterMode(display=False) as outsider:
        layer(x)
    with torch.no_grad(), counted(layer) as count:
        layer(x)
    assert 2 * sum(work.macs for work in count.work) == outsider.get_total_flops()
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_a_function_that_a_model_compiles_is_counted_as_it_is() -> None:
    class Compiling(nn.Module):
        def __init__(self, through: Any) -> None:
            super().__init__()
            self.function = through(lambda x: x @ x.T)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.function(x)

    work = []
    for through in (lambda function: function, lambda function: torch.compile(function, backend="eager")):
        model, x = Compiling(through), torch.randn(5, 7)
        with torch.no_grad(), counted(model) as count:
            model(x)
        work.append([(part.operation, part.macs) for part in count.work])
    assert work == [[("matmul", 5 * 5 * 7)]] * 2


def test_bits_are_told_apart() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 16))
    found = summary(model, torch.randn(20, 8), Recipe(Format(3, 4), 4, overrides=(("2", LayerRule(skip=True)),)))
    assert [(p.what, p.quantized, p.places) for p in found.shares] == [
        ("A8 W8", True, ("0", "6")), ("A3 W4", True, ("4",)), ("Linear", False, ("2",)),
    ]  # fmt: skip
    assert found.quantized_share == pytest.approx(4 / 5)
    assert next(found.lines()) == (
        "80.0 % of the multiply-accumulates are quantized (A8 W8 60.0 %, A3 W4 20.0 %); in float: Linear 20.0 % (2)"
    )
    assert [row["macs_share"] for row in found.rows()] == pytest.approx([0.2, 0.2, 0.4])


@pytest.mark.parametrize(("kind", "warned"), [("gru", True), ("matmul", False)])
def test_a_model_that_is_mostly_float_is_warned_about_in_one_line(kind: str, warned: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        overq.quantize(Parts(kind).eval(), torch.randn(N, T, 8), ALL)
    mine = [w for w in caught if w.category is MostlyFloatWarning]
    assert len(mine) == warned
    if warned:
        assert mine[0].filename == __file__
        text = str(mine[0].message)
        assert text.startswith("most of the model stays in float: ")
        assert "OwnGRU 96.8 % (other)" in text
        assert "\n" not in text


class Twice(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factor, self.c = factor, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.c(x * self.factor)) / self.factor)


@pytest.mark.parametrize(("factor", "apart"), [(1.0, False), (1000.0, True)])
def test_a_layer_called_twice_is_said_and_how_far_its_inputs_are_apart(factor: float, apart: bool) -> None:
    note = summary(Twice(factor), torch.randn(8, 8, 9, 9)).layers[0].note
    assert note.startswith("called 2 times in a run, one step for all")
    assert ("though inputs reach" in note) is apart


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        x.add_(1)  # another tensor from here on
        return self.o(F.scaled_dot_product_attention(q, k, v)) + self.q(x)


def test_a_tensor_read_by_several_layers_is_said() -> None:
    notes = {r.name: r.note for r in summary(Attention(), torch.randn(8, 5, 8))}
    assert notes["k"] == "reads the same tensor as q, v"
    assert notes["v"] == "reads the same tensor as q, k"
    assert notes["q"] == "called 2 times in a run, one step for all, reads the same tensor as k, v"
    assert notes["o"] == ""


@pytest.mark.parametrize(("lanes", "groups", "note"), [
    (None, 1, ""), (6, 1, ""), (5, 1, "3 lanes of the last tile idle"), (16, 1, "4 lanes of its tile idle"),
    (None, 3, "3 groups of 4 lanes"), (3, 3, "3 groups of 4 lanes, 2 lanes of the last tile idle"),
])  # fmt: skip
def test_groups_and_idle_lanes_are_said(lanes: int | None, groups: int, note: str) -> None:
    recipe = Recipe(Format(4, 2, lanes=lanes), first=None, last=None)
    assert summary(nn.Conv1d(12, 6, 1, groups=groups), torch.randn(4, 12, 9), recipe).layers[0].note == note


def test_what_happened_to_the_samples_is_said() -> None:
    x = torch.randn(100, 8)
    assert summary(nn.Linear(8, 8), x).notes == ()
    labelled = summary(nn.Linear(8, 8), [(x, torch.zeros(100))], ALL.with_(bias_correction=True))
    assert labelled.notes == ("1 item of a batch was not passed to the model", "biases corrected on 64 of 100 samples")

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    batch = {"x": torch.randn(6, 5, 4), "attention_mask": (torch.arange(5) < 3).expand(6, 5).long()}
    assert summary(Masked(), batch).notes == (
        "the samples hold 'attention_mask', and no mask was named: if it says what is padded, give mask='attention_mask'",
    )
    told = summary(Masked(), batch, mask="attention_mask")
    assert told.notes == ()
    assert told.layers[0].note == "12 padded positions left out"


def test_without_samples_nothing_is_claimed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    model[1].running_mean.normal_()
    found = overq.summary(overq.quantize(model, observe_statistics(model), ALL))
    assert math.isnan(found.quantized_share)
    assert "multiply-accumulates were not counted: no sample ran" in str(found)


def some() -> Summary:
    return summary(Attention(), torch.randn(8, 5, 8), ALL.with_(bias_correction=True))


def test_as_plain_values_and_back(tmp_path: Path) -> None:
    found = some()
    data = json.loads(json.dumps(found.to_dict()))
    assert Summary.from_dict(data) == found
    quantized = overq.quantize(Attention().eval(), torch.randn(8, 5, 8), ALL)
    overq.save(quantized, tmp_path / "a.safetensors")
    assert overq.summary(overq.load(tmp_path / "a.safetensors", Attention())) == overq.summary(quantized)


@pytest.mark.parametrize("change", [
    lambda data: data.pop("shares"), lambda data: data["shares"][0].pop("macs"), lambda data: data["shares"][0].update(macs="1"),
    lambda data: data.update(notes=None), lambda data: data["float"].append(["a"]), lambda data: data["shares"][0].update(places=[1]),
])  # fmt: skip
def test_damaged_values_are_no_summary(change: Any) -> None:
    data = some().to_dict()
    change(data)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Summary.from_dict(data)


def test_a_table_for_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    found, stand_in = some(), types.ModuleType("pandas")
    stand_in.DataFrame = lambda rows: ("frame", rows)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    assert found.to_pandas() == ("frame", list(found.rows()))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ToolError, match=r"^Summary\.to_pandas needs pandas, which is not installed: pip install pandas"):
        found.to_pandas()


def test_a_real_table_for_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = some().to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["layer"]) == ["q", "k", "v", "o"]


class Reader(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.add(tag)
        assert not attrs
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


NAMES = ["<script>alert(1)</script>", "[red]x[/red]", "a\x1b[31mb", "=1+1", "x\u202ey", "<b onclick=1>", "a&b", ":smile:", "two\nlines"]


def test_names_do_nothing_in_the_warning() -> None:
    model = nn.Sequential()
    model._modules["a\x1b[31m\nb"] = OwnLSTM(8, 64)
    model._modules["pick"] = First()
    model._modules["c"] = nn.Linear(64, 2)
    with pytest.warns(OverqWarning, match=r"OwnLSTM 99.3 % \(a\\x1b\[31m\\nb\)$"):
        overq.quantize(model, torch.randn(20, 8), ALL)


class First(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return pair[0]


@pytest.mark.parametrize("name", NAMES)
def test_names_do_nothing_in_a_notebook_or_a_terminal(name: str) -> None:
    model = nn.Sequential()
    for key in (name, name + " in float"):
        model._modules[key] = nn.Linear(8, 8)
    recipe = ALL.with_(overrides=(("* in float", LayerRule(skip=True)),))
    found = summary(model, torch.randn(20, 8), recipe)
    shown = name.encode("unicode_escape").decode() if not name.isprintable() else name
    page = Reader(found._repr_html_())
    assert page.tags == {"table", "caption", "tr", "th", "td", "p", "br"}
    assert not page.open
    for text in (page.text, str(found).replace("\n", " ")):
        assert shown in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert name in json.dumps(found.to_dict(), ensure_ascii=False).replace("\\n", "\n").replace("\\u001b", "\x1b")
