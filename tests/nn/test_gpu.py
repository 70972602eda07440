"""On a graphics card, natively: the operator against the array backend, whole networks against the CPU, graphs, compilation, studies.

`benchmarks/gpu.sh` runs these, and tests/agreement and the fuzz command on the same card.
"""

from __future__ import annotations

import copy

import pytest
import torch

import overq
from overq import kernels
from overq.kernels import array
from overq.methods import METHODS
from overq.nn import summary
from overq.spec import Format
from overq.study import digits
from overq.study.cell import cells_of
from overq.study.evaluate import evaluate, on
from overq.study.plan import Network, Setting, Study

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")]
FORMATS = (
    Format(4, 4),
    Format(4, 4, 4, 4),
    Format(4, 8, policy="largest"),
    Format(3, 16, policy="largest", signed=True, lanes=48),
    Format(4, 4, fraction_bits=0),
    Format(8, 0, 0, 0),
)


def test_the_backend_is_the_native_one() -> None:
    assert kernels.chosen("cuda") == "triton"


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_the_operator_is_the_array_backend_bit_for_bit(fmt: Format, dtype: torch.dtype, memory: torch.memory_format) -> None:
    x = torch.randn(3, 100, 9, 7, generator=torch.Generator().manual_seed(0)).mul_(3)
    x = (x if fmt.signed else x.relu()).to(dtype).to(memory_format=memory)
    wanted = array.overwrite(x, 0.1, fmt, 1)
    got = overq.overwrite(x.cuda(), 0.1, fmt, dim=1)
    assert got.dtype == dtype
    assert torch.equal(got.cpu(), wanted)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_network_is_quantized_on_the_card_as_on_the_cpu(method: str | None) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    recipe = overq.Recipe(Format(4, 4)) if method is None else overq.Recipe(METHODS[method](), calibration="least-error")
    x, labels = digits.images("test")
    samples, x = digits.images("calibration")[0][:64], x[:512]
    cpu, card = (overq.quantize(copy.deepcopy(digits.network()).to(where), samples, recipe) for where in ("cpu", "cuda"))
    assert all(p.is_cuda for p in (*card.parameters(), *card.buffers()))
    for ours, theirs in zip(summary(card).layers, summary(cpu).layers, strict=True):
        assert ours.step == pytest.approx(theirs.step, rel=0.02)
    with torch.no_grad():
        same = (card(x.cuda()).argmax(1).cpu() == cpu(x).argmax(1)).float().mean()
        right = [(net(x.to(where)).argmax(1).cpu() == labels[:512]).float().mean() for net, where in ((cpu, "cpu"), (card, "cuda"))]
    assert same > 0.98
    assert abs(right[0] - right[1]) < 0.01


def test_a_quantized_network_compiles_without_a_break_and_runs_as_a_graph() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    x = digits.images("test")[0][:64].cuda()
    model = overq.quantize(digits.network().cuda(), digits.images("calibration")[0][:64], overq.Recipe(Format(4, 4)))
    with torch.no_grad():
        wanted = model(x)
        compiled = torch.compile(model, fullgraph=True)
        assert (compiled(x).argmax(1) == wanted.argmax(1)).float().mean() > 0.98
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, wanted)


def test_a_network_in_bfloat16_keeps_its_type_and_its_card() -> None:
    model = digits.network().cuda().bfloat16()
    quantized = overq.quantize(model, digits.images("calibration")[0][:64], overq.Recipe(Format(4, 4)))
    with torch.no_grad():
        out = quantized(digits.images("test")[0][:64].cuda().bfloat16())
    assert (out.dtype, out.device.type) == (torch.bfloat16, "cuda")


def test_a_studys_cell_runs_on_the_card_and_says_so() -> None:
    network = Network("digits", "overq.study.digits:network", "digits", "digits")
    (there,) = cells_of(Study("gpu", (network,), (Setting("overq", (("bits", 4),), 8),)))[0]
    with on("cuda"):
        found, _, _, made_by = evaluate(there.key, there)
    assert made_by["device"] == torch.cuda.get_device_name()
    assert found.value("top1") > 0.8
