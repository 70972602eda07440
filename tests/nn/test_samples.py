"""How samples come does not matter: any batches, layout or container give the same observation and correction, bit for bit."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import overq
from overq import Format, Recipe
from overq.calib import Observed
from overq.errors import CalibrationError
from overq.nn import Observations, observe
from overq.nn.bias import choose
from overq.nn.samples import CHUNK, opened

ALL = Recipe(Format(3, 2), first=None, last=None, bias_correction=True)


class Net(nn.Module):
    """Convolutions, a layer that runs twice, and one that sees another memory layout than the image's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = torch.relu(self.c(x.permute(0, 2, 3, 1)))
        return self.head(self.c(x).mean((1, 2)))


IMAGES = torch.randn(150, 5, 6, 4, generator=torch.Generator().manual_seed(1))


def bits(seen: Observations) -> dict[str, Any]:
    """Everything that is known of the layers, comparable bit by bit."""

    def all_of(o: Observed) -> tuple[Any, ...]:
        arrays = (o.histogram.tobytes(), o.sample.shape, o.sample.tobytes(), o.keys.tobytes())
        return (o.low, o.high, o.values, o.limit, o.moving, o.batches, *arrays)

    return {name: all_of(o) for name, o in seen.layers.items()}


class Foreign(UserDict[str, Any]):
    """A mapping that is no dict, as tokenizers return."""


CONTAINERS: dict[str, Callable[[list[torch.Tensor]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda parts: (part for part in parts),
    "arrays": lambda parts: [part.numpy() for part in parts],
    "labelled": lambda parts: [(part, torch.zeros(len(part), dtype=torch.long)) for part in parts],
    "lists": lambda parts: [[part] for part in parts],
    "dicts": lambda parts: [{"x": part} for part in parts],
    "mappings": lambda parts: [Foreign(x=part) if i % 2 else OrderedDict(x=part) for i, part in enumerate(parts)],
    "loader": lambda parts: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(parts)), batch_size=len(parts[0])),
}
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "a view": lambda x: torch.cat([x[:1], x])[1:].flip(0).flip(0),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every other": lambda x: torch.stack([x, -x], 1)[:, 0],
    "with gradients": lambda x: x.clone().requires_grad_(),
}


@given(
    st.integers(1, 150).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, max(1, n - 1)), max_size=6))),
    st.sampled_from(sorted(CONTAINERS)),
    st.sampled_from(sorted(LAYOUTS)),
)
@settings(max_examples=15, deadline=None)
def test_how_samples_come_does_not_matter(split: tuple[int, set[int]], container: str, layout: str) -> None:
    count, cuts = split
    x, model = IMAGES[:count], Net()
    borders = [0, *sorted(c for c in cuts if c < count), count]
    if container == "arrays" and layout == "with gradients":
        layout = "contiguous"
    parts = [LAYOUTS[layout](x[a:b]) for a, b in pairwise(borders)]
    assert bits(observe(model, CONTAINERS[container](parts))) == bits(observe(model, x))


@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_bias_correction_is_the_same_however_samples_come(container: str, layout: str) -> None:
    model, x = Net(), IMAGES[:100]
    parts = [LAYOUTS[layout](part) for part in x.split(9)]
    wanted, got = overq.quantize(model, x, ALL), overq.quantize(model, CONTAINERS[container](parts), ALL)
    for (name, a), b in zip(wanted.state_dict().items(), got.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert overq.summary(wanted).layers == overq.summary(got).layers  # the notes say what was not passed


def test_cost_is_the_same_however_samples_come() -> None:
    """Counted in runs of a layer, which no other load on the machine disturbs."""
    x, runs = IMAGES[:128], []
    for samples in (x, [x], x.split(1), x.split(50)):
        model, rows = Net(), []
        model.a.register_forward_pre_hook(lambda m, args, rows=rows: rows.append(len(args[0])))
        overq.quantize(model, samples, ALL)
        runs.append(rows)
    assert all(rows == runs[0] for rows in runs)
    assert sum(runs[0]) <= 128 + 5 + 4 * 64  # observed; tried; float outputs, and one more run for the layer that is called twice


def test_positions_are_told_from_samples_by_trying() -> None:
    """Time first: cutting along the first axis would make another function of it, so batches are run as they come."""
    torch.manual_seed(0)
    model = nn.GRU(6, 6)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = model, nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0])

    net, x = Tagger().eval(), torch.randn(80, 5, 6)
    seen = observe(net, [x[:, :3], x[:, 3:]])
    with torch.no_grad():
        inputs = torch.cat([net.rnn(part)[0] for part in (x[:, :3], x[:, 3:])], 1)
    assert seen.stream is not None
    assert not seen.stream.together
    assert seen.layers["head"].high == inputs.max().item()
    assert seen.layers["head"].batches == 2


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (40, 8, 8)])
def test_unbatched_images_are_run_as_they_come(shape: tuple[int, ...]) -> None:
    model = nn.Conv2d(shape[0], 4, 3)
    x = torch.randn(5, *shape)
    seen = observe(model, list(x))
    assert (seen.layers[""].batches, seen.layers[""].values) == (5, x.numel())
    assert seen.layers[""].high == x.max().item()


class Centered(nn.Module):
    """Compares the samples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x - x.mean(0))


def test_a_model_that_compares_samples_sees_the_batches_as_they_come() -> None:
    x = torch.randn(48, 4)
    seen = observe(Centered(), [x[:40], x[40:]])
    assert seen.layers["layer"].batches == 2
    assert seen.layers["layer"].high == max((part - part.mean(0)).max().item() for part in (x[:40], x[40:]))


def test_sentences_of_many_lengths_are_joined_where_neighbours_are_alike() -> None:
    model = nn.Linear(4, 4)
    lengths = [3, 3, 7, 7, 7, 2, 7]
    sentences = [torch.randn(2, n, 4) for n in lengths]
    rows = [part.rows for part in opened(model, sentences)]
    assert rows == [4, 6, 2, 2]
    assert bits(observe(model, sentences)) == bits(observe(model, [s[i : i + 1] for s in sentences for i in range(2)]))


def test_large_samples_run_in_smaller_chunks() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).repeat(1, 1 << 23).sum(1, keepdim=True)  # 2^24 values a sample

    assert {part.rows for part in opened(Wide(), torch.randn(16, 2))} == {4}
    assert [part.rows for part in opened(nn.Linear(2, 2), torch.randn(70, 2))] == [CHUNK, CHUNK, 6]


def test_a_forward_of_ones_own_gets_samples_cut_alike() -> None:
    model, x = Net(), IMAGES[:70]
    own = observe(model, [(part, "name") for part in x.split(10)], forward=lambda m, batch: m(batch[0]))
    assert bits(own) == bits(observe(model, x))
    got: list[Any] = []
    observe(model, [3, 4], forward=lambda m, batch: (got.append(batch), m(IMAGES[:batch])))
    assert got == [3, 4]


def test_samples_kept_for_correction_are_some_of_all() -> None:
    model, x = nn.Linear(4, 4), torch.arange(300.0)[:, None].expand(300, 4)
    kept = [choose(model, samples, seed=seed) for samples in (x, x.split(7)) for seed in (0, 1)]
    rows = [torch.cat([unit.tensors[0] for unit in chosen.units])[:, 0].tolist() for chosen in kept]
    assert rows[0] == rows[2] != rows[1] == rows[3]
    assert rows[0] == sorted(rows[0])
    assert len(rows[0]) == 64
    assert max(rows[0]) > 250
    assert (kept[0].rows, kept[0].of) == (64, 300)
    assert torch.cat([u.tensors[0] for u in choose(model, x[:50]).units]).equal(x[:50])


def test_memory_does_not_grow_with_the_samples() -> None:
    """No more than a chunk of the samples is alive at once beside those kept for correction."""
    alive: list[int] = []

    refs: list[Any] = []

    def stream() -> Iterator[torch.Tensor]:
        for _ in range(40):
            x = torch.randn(32, 5, 6, 4)
            refs.append(weakref.ref(x))
            alive.append(sum(r() is not None for r in refs))
            yield x
            del x

    observe(Net(), stream())
    assert max(alive) <= 4


def test_what_cannot_be_samples_is_refused_with_the_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    x = torch.randn(4, 3, 8, 8)
    cases: list[tuple[Any, str]] = [
        ([x[:0]], r"^no calibration samples: every batch is empty$"),
        ((part for part in [x[:0], x[:0]]), r"^no calibration samples: every batch is empty$"),
        ("images", r"^samples must be a tensor or an iterable of batches, not str$"),
        (["images"], r"^a batch must be a tensor, an array, a tuple, a list or a mapping of them, not str$"),
        ([None], r"not NoneType$"),
        ([[1.0]], r"^the model does not run on samples"),
        (x.to("meta"), r"^the samples are on the meta device, where tensors hold no values$"),
        ([x.to_sparse()], r"^the samples hold a sparse tensor: give dense ones of plain numbers$"),
        ([torch.nested.nested_tensor(list(x))], r"^the samples hold a nested tensor"),
        ([torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)], r"^the samples hold a quantized tensor"),
        (np.array(["a", "b"]), r"^samples must be arrays of numbers, not <U1 \[2\]$"),
        (np.array([{}, {}], dtype=object), r"^samples must be arrays of numbers, not object \[2\]$"),
        (x[:, :2], r"^the model does not run on samples \[4, 2, 8, 8\] float32: RuntimeError: .*expected input"),
        (
            (x, torch.zeros(4)),
            r"^samples are a tuple of unlike tensors: one batch of several items is \[\(first, second\)\], a list of it$",
        ),
        (torch.utils.data.TensorDataset(x), r"not TensorDataset: wrap it in a DataLoader$"),
    ]
    for samples, message in cases:
        with pytest.raises(CalibrationError, match=message) as caught:
            overq.quantize(model, samples)
        assert "\n" not in str(caught.value)


def test_empty_batches_among_others_count_for_nothing() -> None:
    model, x = Net(), IMAGES[:40]
    assert bits(observe(model, [x[:0], x[:10], x[:0], x[10:], x[:0]])) == bits(observe(model, x))


def test_weights_that_are_not_there_are_refused() -> None:
    x = torch.randn(4, 3, 8, 8)
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LazyConv2d(4, 3))
    message = r"^layer '2' is a LazyConv2d whose weights have no shape yet: run the model once, then quantize it$"
    for run in (lambda: overq.quantize(lazy, x), lambda: observe(lazy, x), lambda: overq.quantize(lazy, observe(lazy[0], x))):
        with pytest.raises(CalibrationError, match=message):
            run()
    lazy(x)
    assert len(overq.summary(overq.quantize(lazy, x))) == 2
    with pytest.raises(CalibrationError, match=r"^layer '1' has its weights on the meta device, where they have no values"):
        overq.quantize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, device="meta")), x)


def test_compiled_models_are_refused_with_the_way_out() -> None:
    for compiled in (torch.jit.script(nn.Linear(4, 4)), torch.jit.trace(nn.Linear(4, 4), torch.ones(2, 4))):
        with pytest.raises(CalibrationError, match=r"^the model is compiled by torch\.jit, .*: give the module that it was made from$"):
            overq.quantize(compiled, torch.randn(8, 4))
    inside = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))
    facts = overq.summary(overq.quantize(inside, torch.randn(8, 4), Recipe(first=None, last=None)))
    assert facts.quantized_share == 0.5


def test_values_that_the_model_makes_infinite_are_not_blamed_on_the_samples() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight.data.fill_(3e38)
    with pytest.raises(CalibrationError, match=r"^layer '1': .* NaN or infinite; the samples are finite, the model makes them$"):
        observe(model, torch.rand(8, 4) + 1)


class Experts(nn.Module):
    """Sends every sample to one expert, some to none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        for i, expert in enumerate(self.experts):
            mine = x[:, 0].clamp(0, 1.5).long() == i
            y[mine] = expert(x[mine])
        return y


def test_layers_that_got_nothing_stay_float() -> None:
    x = torch.rand(50, 4) * torch.tensor([0.5, 1, 1, 1])
    x[:3, 0] = 1.2
    model = Experts().eval()
    quantized = overq.quantize(model, [x[3:], x[:3]], ALL)
    facts = overq.summary(quantized)
    assert [report.name for report in facts] == ["experts.0", "experts.1"]
    assert [name for name, _ in facts.left_float] == ["experts.2"]
    assert torch.isfinite(quantized(x)).all()
    one_behind_the_other = overq.quantize(model, [x[3:], x[:3]], ALL.with_(sequential=True))
    assert torch.isfinite(one_behind_the_other(x)).all()
    with pytest.raises(CalibrationError, match=r"^layer '' and all others got empty inputs: the samples hold no values$"):
        overq.quantize(nn.Linear(4, 4), torch.rand(4, 0, 4))


def test_a_tuple_that_could_be_one_batch_or_several_is_refused() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer = nn.Embedding(9, 4), nn.Linear(4, 4)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return self.layer(self.embed(ids))

    model = Masked()
    ids, mask = torch.randint(0, 9, (12, 5)), torch.ones(12, 5, dtype=torch.long)
    with pytest.raises(CalibrationError, match=r"^samples are a tuple of 2, and the model's forward takes ids, mask: one batch of several"):
        observe(model, (ids, mask))
    assert bits(observe(model, ids.split(4))) == bits(observe(model, ids))
    assert observe(model, list(ids.split(6))).layers["layer"].values == ids.numel() * 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda seen: pickle.loads(pickle.dumps(seen))], ids=["deepcopy", "pickle"])
def test_observations_can_be_copied_and_kept(copied: Callable[[Observations], Observations]) -> None:
    model, x = Net(), IMAGES[:40]
    seen = observe(model, (part for part in x.split(7)))
    wanted = overq.quantize(model, seen, ALL)  # finds the float outputs
    got = overq.quantize(model, copied(seen), ALL)
    assert all(torch.equal(a, b) for a, b in zip(wanted.parameters(), got.parameters(), strict=True))
