"""Layers of a real network with their memory: the same shapes as the cycle model's, values on their lanes, rivals beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

import overq
from overq.cli import app
from overq.errors import InputError
from overq.methods.method import Fitted
from overq.sim.memory import Memory, Plan
from overq.sim.rates import RUN, counted, drawn, fixed
from overq.spec import ArrayConfig, Format, State, encode
from overq.study import digits
from overq.study.choices import Choice, beside
from overq.study.cycles import NetworkCycles, network_cycles, recipe
from overq.study.met import Met

ENOUGH = Memory(2**30, 2**30, 2**30, 1e9, 1)
OURS = Format(4, 4, 1, 1)
RIVALS = beside(["SPARQ", "olive"], 4)


@pytest.fixture(scope="module")
def met() -> tuple[Met, NetworkCycles]:
    quantized = overq.quantize(digits.network(), digits.images("calibration")[0], recipe(OURS, 8))
    machine = ArrayConfig(OURS, 8, 8, 8, segments=True)
    found = Met([Choice(Format.plain(4)), Choice(OURS), Choice(Format.plain(8)), *RIVALS], OURS, machine)
    return found, network_cycles(quantized, digits.images("test")[0][:2], rows=8, columns=8, watch=found.see)


def test_cycles_and_traffic_are_those_of_the_model_with_values(met: tuple[Met, NetworkCycles]) -> None:
    found, ran = met
    costs = found.costs(ENOUGH, Plan())
    plain, ours = costs[found.choices[0]], costs[found.choices[1]]
    for seen, layer, a, b in zip(found.layers, ran.layers, plain, ours, strict=True):
        assert (b.name, b.cycles - b.stalls, b.folds, b.macs) == (layer.name, layer.cycles, layer.folds, layer.macs)
        assert a.cycles - a.stalls == layer.plain_cycles
        assert (b.array_digits, b.array_weights, b.array_sums) == (layer.array_digits, layer.array_weights, layer.array_sums)
        assert (b.dram_maps, b.dram_weights) == (layer.memory_digits + layer.memory_states, layer.memory_weights)
        assert seen.shares[1].second == pytest.approx(layer.second)
        assert 0 < seen.shares[1].kept <= 1
    first, last = found.layers[0], found.layers[-1]
    assert [seen.name for seen in (s.work for s in found.layers if s.keeps)] == [first.work.name, last.work.name]
    assert [choice.label for choice in last.choices] == ["A8 plain"] * 5
    assert costs[found.choices[2]][0] == costs[found.choices[3]][0] == ours[0]  # first layer: alike for all


def test_rivals_move_what_their_methods_store(met: tuple[Met, NetworkCycles]) -> None:
    found, _ = met
    costs = found.costs(ENOUGH, Plan())
    sparq, olive = (costs[rival][4] for rival in RIVALS)
    plain = costs[found.choices[0]][4]
    assert sparq.array_digits == olive.array_digits == plain.array_digits
    assert (sparq.array_states, olive.array_states) == (round(plain.array_digits / 4 * 3.5), 0)
    assert sparq.array_sums == costs[found.choices[2]][4].array_sums  # as wide as 8-bit values need


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("name", ["SPARQ", "OliVe"])
def test_a_rivals_lanes_spell_what_its_method_makes(name: str, bits: int) -> None:
    """Σ (digit << shift) · chosen weight = Σ quantized value · weight."""
    (rival,) = beside([name], bits)
    values = drawn(0.5, 0.05, bits, False, 200, 34)
    weights = np.random.default_rng(0).integers(-128, 128, 34)
    of_pair = weights[np.arange(34) ^ 1]
    digit, shift, other = rival.arrays(values, bits)
    assert 0 <= digit.min() <= digit.max() < 2**bits
    assert shift.max() < 8
    as_method_takes_it = fixed(values, bits, Format.plain(8)) + 1 >> 1 if name == "SPARQ" else values
    assert rival.method is not None
    quantized = Fitted(rival.method, False, 1.0)(as_method_takes_it.astype(np.float32))
    assert (((digit << shift) * np.where(other == 1, of_pair, weights)).sum(1) == quantized @ weights).all()
    assert (digit << shift).max() < 2**rival.format.bits
    assert other.any() == (name == "SPARQ")


def test_shares_of_lanes_that_are_there() -> None:
    """Against a count lane by lane."""
    rng = np.random.default_rng(3)
    rows = rng.choice([0, 0, 0, 0, 0, 0, 1, 9, 40], (50, 45)) * (rng.random((50, 1)) < 0.8)
    lanes = [encode([int(v) * OURS.unit for v in row], OURS) for row in rows]
    digits_, states = (np.array([[lane[part] for lane in row] for row in lanes]) for part in (0, 1))
    entries = 0
    for row in lanes:
        run = 0
        for digit, state in row:
            used = digit != 0 or state != State.OWN
            entries += used or run == RUN
            run = 0 if used or run == RUN else run + 1
    found = counted(digits_, states, int((rows > 15).sum()))
    assert found.entries == entries / rows.size
    assert found.nonzero == (digits_ != 0).mean()
    assert found.served == (states == State.RANGE).sum() / (rows > 15).sum()


def test_rivals_that_have_no_element_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^--rival PWLQ: no element of it is built.*; there are SPARQ, OliVe$"):
        beside(["PWLQ"], 4)
    with pytest.raises(InputError, match=r"^A4 SPARQ: no element of SPARQ for signed values is built$"):
        RIVALS[0].signed()


def test_command(tmp_path: Path) -> None:
    small = ["cycles", "--rows", "8", "--columns", "8", "--range-bits", "1", "--fraction-bits", "1"]
    command = [*small, "--plain", "4,5", "--rival", "OliVe", "--arrays", "2", "--bandwidth", "4"]
    shown = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "c.json"), "--formats", str(tmp_path / "f.csv")])
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    assert "with memory, 2 arrays, ws: all layers" in words
    rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["format"] for row in rows)) == ["A4 plain", "A5 plain", "A4 r1+f1 c4", "A4 OliVe"]
    lines = json.loads((tmp_path / "c.json").read_text())["formats"]
    assert [str(line["cycles"]) for line in lines] == [row["cycles"] for row in rows]
    assert sum(line["stalls"] for line in lines) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clock", "2"], "--clock and --dram-energy are for energy, which needs --liberty"),
        (["--buffers", "1,2"], "--buffers 1,2: three sizes"),
        (["--rival", "NVFP4"], "--rival NVFP4: no element of it is built"),
        (["--arrays", "2", "--dataflow", "os"], "2 arrays with the dataflow os"),
    ],
    ids=["no library", "buffers", "rival", "arrays"],
)
def test_options_that_make_no_sense_are_refused(options: list[str], words: str) -> None:
    shown = CliRunner().invoke(app, ["cycles", *options])
    assert isinstance(shown.exception, InputError)
    assert words in str(shown.exception)
