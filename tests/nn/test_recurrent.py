"""LSTM, GRU, plain RNN and their cells: unrolled they compute what PyTorch computes, and their products are quantized."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import overq
from overq import Format, LayerRule, Recipe, quantize
from overq.errors import InputError
from overq.nn import Quantized, summary
from overq.nn.op import overwrite
from overq.nn.recurrent import unrolled

RECIPE = Recipe(Format(4, 4, 3, 3), first=None, last=None)
FINE = Recipe(Format.plain(8), first=None, last=None)
N, T, K, H = 3, 6, 5, 8


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(got, wanted):
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
        return
    assert type(got) is type(wanted)
    if wanted is None:
        return
    for a, b in zip(got, wanted, strict=True):
        close(a, b)


KINDS = {
    "LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN, "relu": lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o),
    "projected": lambda *a, **o: nn.LSTM(*a, proj_size=3, **o),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_unrolled_sequences_are_pytorch_s(kind, layers) -> None:
    for both, first, bias in product((False, True), repeat=3):
        torch.manual_seed(0)
        module = KINDS[kind](K, H, layers, bidirectional=both, batch_first=first, bias=bias).eval()
        apart = unrolled(copy.deepcopy(module))
        assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in module.parameters())
        assert all(type(m) is nn.Linear for name, m in apart.named_modules() if name)
        x = rand(N, T, K) if first else rand(T, N, K)
        width, many = 3 if kind == "projected" else H, layers * (1 + both)
        h = (rand(many, N, width), rand(many, N, H)) if isinstance(module, nn.LSTM) else rand(many, N, width)
        one = tuple(s[:, 1] for s in h) if isinstance(h, tuple) else h[:, 1]
        with torch.no_grad():
            for given in (None, h):
                close(apart(x, given), module(x, given))
            close(apart(x[1] if first else x[:, 1], one), module(x[1] if first else x[:, 1], one))
            for lengths, ordered in (((6, 4, 1), True), ((2, 6, 3), False)):
                packed = pack_padded_sequence(x, torch.tensor(lengths), first, ordered)
                for given in (None, h):
                    close(apart(packed, given), module(packed, given))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_unrolled_cells_are_pytorch_s(kind) -> None:
    for bias in (True, False):
        torch.manual_seed(0)
        module = kind(K, H, bias=bias)
        apart, h = unrolled(copy.deepcopy(module)), rand(N, H)
        state = (h, rand(N, H + 1)[:, :H]) if kind is nn.LSTMCell else h
        one = tuple(s[0] for s in state) if isinstance(state, tuple) else state[0]
        with torch.no_grad():
            for x, given in ((rand(N, K), None), (rand(N, K), state), (rand(N, K)[0], None), (rand(N, K)[0], one)):
                close(apart(x, given), module(x, given))


def test_gradients_and_dropout_between_layers() -> None:
    torch.manual_seed(0)
    module, x = nn.GRU(K, H, 2, batch_first=True), rand(N, T, K).requires_grad_()
    wanted = torch.autograd.grad(module(x)[0].square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(unrolled(copy.deepcopy(module))(x)[0].square().sum(), x)[0], wanted)
    module.dropout = 0.9
    apart = unrolled(module)
    assert not torch.equal(apart(x)[0], apart(x)[0])
    assert torch.equal(apart.eval()(x)[0], apart(x)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_wrong_inputs_are_refused_as_pytorch_does(kind) -> None:
    module = KINDS[kind](K, H)
    apart, state = unrolled(copy.deepcopy(module)), rand(1, 4, H)
    for args in ((rand(T, N, K + 1),), (rand(K),), (rand(T, N, K), (state, state) if kind == "LSTM" else state)):
        with pytest.raises((RuntimeError, ValueError)) as wanted:
            module(*args)
        with pytest.raises(wanted.type) as got:
            apart(*args)
        assert str(got.value) == str(wanted.value)


class Tagger(nn.Module):
    """A sequence of vectors -> a score for each; `packed`: the model packs it itself."""

    def __init__(self, kind, packed=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = KINDS[kind](K, H, batch_first=True, **options)
        self.head = nn.Linear((3 if kind == "projected" else H) * (2 if options.get("bidirectional") else 1), 2)
        self.packed = packed

    def forward(self, x, lengths=None):
        if not self.packed:
            return self.head(self.rnn(x)[0])
        y = self.rnn(pack_padded_sequence(x, lengths, True, False))[0]
        return self.head(pad_packed_sequence(y, True, total_length=x.shape[1])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_product_is_quantized(kind, tmp_path) -> None:
    model, x = Tagger(kind, num_layers=2, bidirectional=True).eval(), rand(9, T, K)
    q = quantize(model, x, RECIPE)
    facts = summary(q)
    assert facts.quantized_share == 1
    assert not facts.left_float
    parts = ["input", "hidden", *(["project"] if kind == "projected" else [])]
    names = {f"rnn.{part}_l{i}{way}" for part in parts for i in (0, 1) for way in ("", "_reverse")}
    assert {r.name for r in facts} == {*names, "head"}
    macs = {r.name: r.macs // 2 for r in facts}  # of the two samples that are counted
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1, "relu": 1, "projected": 4}[kind]
    assert macs["rnn.input_l0"] == T * gates * H * K
    assert macs["rnn.hidden_l1_reverse"] == T * gates * H * (3 if kind == "projected" else H)
    for layer in (q.rnn.input_l0, q.rnn.input_l1):  # both directions read one tensor
        assert layer.shared is not None
    assert q.rnn.input_l0.shared is q.rnn.input_l0_reverse.shared
    assert torch.isfinite(q(x)).all()
    assert (quantize(model, x, FINE)(x) - model(x)).norm() < 0.05 * model(x).norm()
    overq.save(q, tmp_path / "m.safetensors")
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q)), overq.load(tmp_path / "m.safetensors", model), q.train()):
        assert torch.equal(other(x), q(x))
    assert "weight_ih_l0" in dict(model.rnn.named_parameters())  # the given model is as it was


def test_it_computes_what_the_cell_computes_on_overwritten_inputs_and_states() -> None:
    model, x = Tagger("LSTM").eval(), rand(9, T, K)
    q = quantize(model, x, RECIPE)
    first, again = q.rnn.input_l0, q.rnn.hidden_l0
    assert isinstance(first, Quantized)
    h = c = torch.zeros(9, H)
    for t in range(T):
        gates = F.linear(overwrite(x[:, t], first.step, first.format, 1), first.weight, first.bias)
        gates = gates + F.linear(overwrite(h, again.step, again.format, 1), again.weight, again.bias)
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        torch.testing.assert_close(q.rnn(x)[0][:, t], h, rtol=1e-5, atol=1e-6)


def test_packed_sequences_and_padding_calibrate_alike() -> None:
    x, lengths = rand(9, T, K), torch.tensor([6, 1, 2, 5, 6, 3, 4, 1, 2])
    real = torch.arange(T) < lengths[:, None]
    other = torch.where(real[..., None], x, 50.0)
    packed = quantize(Tagger("GRU", packed=True).eval(), [(x, lengths)], RECIPE, forward=lambda model, batch: model(*batch))
    masked = quantize(Tagger("GRU").eval(), other, RECIPE, mask=real)
    names = ("rnn.input_l0", "rnn.hidden_l0")
    steps = [{r.name: r.step for r in summary(q)} for q in (packed, masked)]
    assert [steps[0][name] for name in names] == pytest.approx([steps[1][name] for name in names], rel=1e-5)
    with torch.no_grad():
        whole = packed(x, lengths)
        for i, n in enumerate(lengths):
            torch.testing.assert_close(whole[i, :n], packed(x[i : i + 1, :n], lengths[i : i + 1])[0], rtol=1e-5, atol=1e-6)


def test_cells_in_a_loop() -> None:
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.head = nn.LSTMCell(K, H), nn.Linear(H, 2)

        def forward(self, x):
            state = None
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return self.head(state[0])

    q = quantize(Loop().eval(), rand(9, T, K), RECIPE)
    assert summary(q).quantized_share == 1
    assert {r.name for r in summary(q)} == {"cell.input", "cell.hidden", "head"}
    skipped = quantize(Loop().eval(), rand(9, T, K), RECIPE.with_(overrides=(("cell.hidden", LayerRule(skip=True)),)))
    assert ("cell.hidden", "a rule of the recipe skips it") in summary(skipped).left_float


def test_those_that_are_changed_stay_float_and_are_named() -> None:
    class Own(nn.LSTM):
        pass

    for make in (lambda m: setattr(m, "rnn", Own(K, H, batch_first=True)), lambda m: nn.utils.weight_norm(m.rnn, "weight_hh_l0")):
        model = Tagger("LSTM").eval()
        make(model)
        with pytest.warns(UserWarning, match=r"most of the model stays in float: .* in float: (Own|LSTM) "):
            q = quantize(model, rand(9, T, K), RECIPE)
        assert [name for name, _ in summary(q).left_float] == ["rnn"]


def test_integers_refuse_it_by_name() -> None:
    from overq.integer import integer_network

    q = quantize(Tagger("LSTM").eval(), rand(9, T, K), RECIPE)
    with pytest.raises(InputError, match="rnn"):
        integer_network(q)
