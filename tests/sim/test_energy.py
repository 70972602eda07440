"""Energy of layers: by hand for a made-up design, and what several arrays do."""

import pytest

from overq.eda.energy import BlockEnergy, MemoryEnergy
from overq.errors import InputError
from overq.sim.energy import layer_energy, total
from overq.sim.memory import SPLITS, Cost, Memory, Plan, cost
from overq.sim.rates import Shares, drawn, fixed
from overq.sim.workload import Work
from overq.spec import ArrayConfig, Format

ALL = Shares(1, 0, 1, 1, 0)
ENOUGH = Memory(2**30, 2**30, 2**30, 1e9, 1)
BLOCKS = BlockEnergy(100.0, 10.0, 20.0, 5.0, 50.0, 2.0, 1.0, 30, 1e6, 2000.0, 0.0, 1e6, "made up", 1.0)


def machine(fmt: Format | None = None, rows: int = 4, columns: int = 4) -> ArrayConfig:
    return ArrayConfig(fmt or Format.plain(4), 8, rows, columns, segments=True)


def test_the_table_is_the_published_one_and_between_its_points_it_rises() -> None:
    table = MemoryEnergy()
    assert [table.buffer(size) * 64 for size in (8192, 32768, 2**20)] == pytest.approx([10, 20, 100])
    assert table.dram * 64 == pytest.approx(1000 * (1.3 + 2.6) / 2)
    sizes = [table.buffer(2**k) for k in range(10, 24)]
    assert sizes == sorted(sizes)


def test_a_layer_by_hand() -> None:
    """8 lanes, 4 outputs, 10 vectors on 4 × 4: two folds of 2·4 + 4 + 10 − 2 = 20 cycles."""
    layer = cost(Work("product", 8, 4, 10), machine(), ENOUGH, ALL)
    assert (layer.folds, layer.cycles, layer.macs, layer.passes) == (2, 40, 320, 20)
    assert (layer.encoded, layer.finished) == (80, 40)
    table = MemoryEnergy(((1, 1.0), (2**40, 1.0)), dram=10.0)
    found = layer_energy(layer, machine(), ENOUGH, BLOCKS, table, 2000.0)
    loading = 2 * 4 * 16
    assert found.elements == pytest.approx(1e-3 * (320 * 100 + loading * 20 + (40 * 16 - 320 - loading) * 10))
    assert found.edge == pytest.approx(1e-3 * (80 * 5 + 40 * 50 + 30 * (20 * 2 + 20 * 1)))
    assert found.latency == 80.0
    assert found.leakage == pytest.approx(1e6 * 80 * 1e-6)  # nW · ns = 10^-6 pJ
    assert found.dram == 10.0 * layer.dram
    moved = layer.array_digits + layer.array_weights + layer.array_sums
    assert found.buffers == moved + layer.dram
    assert found.total == pytest.approx(found.elements + found.edge + found.leakage + found.buffers + found.dram)
    assert total([found, found]).edp == pytest.approx(4 * found.edp)


def test_repeated_layers_take_as_much_as_one_after_another() -> None:
    once, thrice = (cost(Work("product", 8, 4, 10, repeat=times), machine(), ENOUGH, ALL) for times in (1, 3))
    one, all_three = (layer_energy(layer, machine(), ENOUGH, BLOCKS, MemoryEnergy(), 2000.0) for layer in (once, thrice))
    assert all_three == total([one] * 3)


@pytest.mark.parametrize("fmt", [Format.plain(4), Format(4, 4)], ids=["plain", "overq"])
@pytest.mark.parametrize(
    "work", [Work("wide", 16, 64, 30), Work("long", 8, 4, 1000), Work("groups", 9, 1, 50, groups=64)], ids=lambda w: w.name
)
def test_several_arrays(work: Work, fmt: Format) -> None:
    """Never slower than one, never faster than their number; the work is the same, and each layer has the split that suits it."""
    one, four = (cost(work, machine(fmt), ENOUGH, ALL, Plan(arrays=arrays)) for arrays in (1, 4))
    assert one.cycles / 4 <= four.cycles <= one.cycles
    assert (four.macs, four.finished, four.dram) == (one.macs, one.finished, one.dram)
    assert four.folds >= one.folds
    assert four.split in SPLITS
    if work.name != "groups":
        assert four.split == {"wide": "outputs", "long": "vectors"}[work.name]
        assert four.cycles < 0.3 * one.cycles


def test_arrays_share_the_bandwidth() -> None:
    memory = Memory(2**20, 2**20, 2**20, 0.25, 1)
    one, four = (cost(Work("wide", 64, 64, 30), machine(), memory, ALL, Plan(arrays=arrays)) for arrays in (1, 4))
    least: Cost = one
    assert four.cycles >= least.dram / 8 / 0.25
    assert four.stalls > one.stalls


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"^4 arrays with the dataflow os: one, or several with ws$"):
        Plan("os", arrays=4)
    with pytest.raises(InputError, match="energy of a bit of DRAM"):
        MemoryEnergy(dram=float("nan"))


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_drawn_values_have_the_rates_they_were_asked_for(signed: bool) -> None:
    values = drawn(0.4, 0.03, 4, signed, 200, 100)
    t = fixed(values, 4, Format(4, 4, signed=signed))
    levels = (t + 2**3) >> 4  # f = 3
    digit = Format.plain(4, signed)
    assert (levels == 0).mean() == pytest.approx(0.4, abs=0.02)
    assert ((levels > digit.digit_max) | (levels < -digit.digit_max)).mean() == pytest.approx(0.03, abs=0.006)
    finer = fixed(values, 4, Format.plain(8, signed))
    assert (finer != 0).mean() == pytest.approx(0.6, abs=0.02)


def test_a_buffer_too_small_for_the_sums_never_makes_wider_sums_faster() -> None:
    """The vectors are cut into equal parts: what is streamed twice is the last part's rest alone."""
    work, small = Work("product", 40, 4, 1000), Memory(2**30, 2**30, 1500, 1e9, 1)
    all_of = [cost(work, machine(Format.plain(bits)), small, ALL) for bits in range(2, 9)]
    assert [one.cycles for one in all_of] == sorted(one.cycles for one in all_of)
    folds = 40 // 4
    for one in all_of:
        parts = one.folds // folds
        assert parts > 1
        assert one.cycles - one.stalls == folds * parts * (2 * 4 + 4 - 2) + folds * parts * -(-1000 // parts)
