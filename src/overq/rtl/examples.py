"""Programs that drive the emitted design, written beside it: example.cpp for Verilator, example_cocotb.py for cocotb.

Both read the testbench's hex files, so each line is one transfer: a reader sees where other data would go in.
"""

from __future__ import annotations

from overq.rtl.testbench import filling, packed
from overq.rtl.vectors import LayerVectors
from overq.spec.requantize import MULTIPLIER_BITS, SHIFT_BITS, bias_bits

_CPP = """\
// Drives overq_top from C++ with Verilator, {source}:
//   verilator --cc --exe --build -Wno-fatal -Wno-lint --top-module overq_top -f overq.f example.cpp && obj_dir/Voverq_top
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>
#include "Voverq_top.h"
#include "verilated.h"

const int ROWS = {rows}, TILES = {tiles}, VECTORS = {vectors};

using Words = std::vector<uint32_t>;  // a port's bits, 32 in each word, the lowest first: lane 0 or column 0 in the lowest bits

Words from_hex(const std::string& hex) {{
  Words words;
  for (int end = int(hex.size()); end > 0; end -= 8) {{
    int begin = end > 8 ? end - 8 : 0;
    words.push_back(uint32_t(std::stoul(hex.substr(begin, end - begin), nullptr, 16)));
  }}
  return words;
}}

std::vector<Words> file(const char* name) {{
  std::ifstream in(name);
  std::vector<Words> lines;
  for (std::string line; in >> line;) lines.push_back(from_hex(line));
  return lines;
}}

// Verilator gives a port the least C++ type that holds it, beyond 64 bits an array of words.
template <class Port> void put(Port& port, const Words& words) {{
  uint64_t value = 0;
  for (size_t i = 0; i < words.size() && i < 2; i++) value |= uint64_t(words[i]) << 32 * i;
  port = Port(value);
}}
template <std::size_t N> void put(VlWide<N>& port, const Words& words) {{
  for (size_t i = 0; i < N; i++) port[i] = i < words.size() ? words[i] : 0;
}}
template <class Port> Words get(const Port& port) {{ return {{uint32_t(port), uint32_t(uint64_t(port) >> 32)}}; }}
template <std::size_t N> Words get(const VlWide<N>& port) {{
  Words words;
  for (size_t i = 0; i < N; i++) words.push_back(port[i]);
  return words;
}}
bool same(Words a, Words b) {{
  a.resize(b.size() > a.size() ? b.size() : a.size());
  b.resize(a.size());
  return a == b;
}}

int main(int argc, char** argv) {{
  Verilated::commandArgs(argc, argv);
  Voverq_top top;
  std::vector<Words> sums, t;  // as they come out
  auto clock = [&] {{          // one cycle: what is there is taken, then the edge
    top.clk = 0;
    top.eval();
    if (!top.rst && top.out_valid) sums.push_back(get(top.out_sums));
    if (!top.rst && top.t_valid) t.push_back(get(top.t));
    top.clk = 1;
    top.eval();
  }};
  auto given = file("t.hex"), enable = file("enable.hex"), starts = file("starts.hex"), weights = file("weights.hex");
  auto expected_sums = file("sums.hex"), expected_t = file("next_t.hex");

  put(top.multipliers, from_hex("{multipliers:x}"));
  put(top.biases, from_hex("{biases:x}"));
  put(top.shifts, from_hex("{shifts:x}"));
{ties}  top.weight_valid = top.in_valid = 0;
  top.rst = 1;
  clock();
  top.rst = 0;

  std::vector<Words> partial;
  for (int tile = 0; tile < TILES; tile++) {{
    for (int row = ROWS - 1; row >= 0; row--) {{  // the last row first
      put(top.weights, weights[tile * ROWS + row]);
      top.weight_valid = 1;
      for (top.eval(); !top.weight_ready; top.eval()) clock();
      clock();
    }}
    top.weight_valid = 0;
    sums.clear();
    for (int vector = 0; vector < VECTORS; vector++) {{
      put(top.in_t, given[tile * VECTORS + vector]);
      put(top.in_enable, enable[tile]);
{vector}      put(top.in_sums, tile ? partial[vector] : Words{{0}});
      top.in_last = tile == TILES - 1;  // then the sums are complete, and t follows
      top.in_valid = 1;
      for (top.eval(); !top.in_ready; top.eval()) clock();
      clock();
    }}
    top.in_valid = 0;
    while (int(sums.size()) < VECTORS) clock();
    partial = sums;
  }}
  while (int(t.size()) < VECTORS) clock();

  int errors = 0;
  for (int vector = 0; vector < VECTORS; vector++)
    errors += !same(partial[vector], expected_sums[vector]) + !same(t[vector], expected_t[vector]);
  std::printf("%s: %d vectors, %d differ\\n", errors ? "FAIL" : "PASS", VECTORS, errors);
  return errors != 0;
}}
"""

_COCOTB = '''\
"""Drives overq_top with cocotb, {source}.

pip install cocotb, then python example_cocotb.py with Icarus Verilog; SIM=verilator takes Verilator.
"""

import os
from pathlib import Path

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge, Timer

HERE = Path(__file__).parent
ROWS, TILES, VECTORS = {rows}, {tiles}, {vectors}


def file(name):
    """A number for each transfer: a port's bits, lane 0 or column 0 in the lowest."""
    return [int(line, 16) for line in (HERE / name).read_text().split()]


async def clock(dut):
    while True:
        dut.clk.value = 0
        await Timer(5, "ns")
        dut.clk.value = 1
        await Timer(5, "ns")


async def taken(dut, ready):
    """Until the clock edge at which the port is ready; the next values go in behind it."""
    while True:
        await ReadOnly()
        done = int(ready.value)
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        if done:
            return


async def watch(dut, valid, port, out):
    while True:
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        await ReadOnly()
        if int(valid.value):
            out.append(int(port.value))


@cocotb.test()
async def a_layer(dut):
    """Weights, vectors, sums and t of a layer, tile by tile."""
    given, enable, starts, weights = file("t.hex"), file("enable.hex"), file("starts.hex"), file("weights.hex")
    dut.multipliers.value = {multipliers:#x}
    dut.biases.value = {biases:#x}
    dut.shifts.value = {shifts:#x}
{ties}    dut.weight_valid.value = dut.in_valid.value = 0
    dut.rst.value = 1
    cocotb.start_soon(clock(dut))
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    sums, t = [], []
    cocotb.start_soon(watch(dut, dut.out_valid, dut.out_sums, sums))
    cocotb.start_soon(watch(dut, dut.t_valid, dut.t, t))
    await FallingEdge(dut.clk)
    for tile in range(TILES):
        for row in reversed(range(ROWS)):  # the last row first
            dut.weights.value = weights[tile * ROWS + row]
            dut.weight_valid.value = 1
            await taken(dut, dut.weight_ready)
        dut.weight_valid.value = 0
        partial = sums[-VECTORS:]
        for vector in range(VECTORS):
            dut.in_t.value = given[tile * VECTORS + vector]
            dut.in_enable.value = enable[tile]
{vector}            dut.in_sums.value = partial[vector] if tile else 0
            dut.in_last.value = int(tile == TILES - 1)  # then the sums are complete, and t follows
            dut.in_valid.value = 1
            await taken(dut, dut.in_ready)
        dut.in_valid.value = 0
        while len(sums) < (tile + 1) * VECTORS:
            await FallingEdge(dut.clk)
    while len(t) < VECTORS:
        await FallingEdge(dut.clk)
    assert sums[-VECTORS:] == file("sums.hex")
    assert t == file("next_t.hex")


def main():
    from cocotb_tools.runner import get_runner

    runner = get_runner(os.environ.get("SIM", "icarus"))
    sources = [HERE / name for name in (HERE / "overq.f").read_text().split()]
    runner.build(sources=sources, hdl_toplevel="overq_top", build_dir=HERE / "sim_build", timescale=("1ns", "1ps"))
    runner.test(hdl_toplevel="overq_top", test_module="example_cocotb", build_dir=HERE / "sim_build", test_dir=HERE)


if __name__ == "__main__":
    main()
'''


def files(layer: LayerVectors) -> dict[str, str]:
    """name -> text; they read what `testbench.files` makes of the same layer."""
    config = layer.config
    held = ("enable", "out_ready", "t_ready") if config.stalls else ()
    fields = {
        **filling(layer),
        "multipliers": packed(layer.multipliers, MULTIPLIER_BITS),
        "biases": packed(layer.biases, bias_bits(config.psum_bits)),
        "shifts": packed(layer.shifts, SHIFT_BITS),
    }
    cpp, python = [], []
    if config.edges:
        cpp.append("put(top.in_starts, starts[tile]);")
        python.append("dut.in_starts.value = starts[tile]")
    if config.double_buffered:
        cpp.append("top.in_first = vector == 0;")
        python.append("dut.in_first.value = int(vector == 0)")
    ties = [f"  top.{name} = 1;\n" for name in held], [f"    dut.{name}.value = 1\n" for name in held]
    return {
        "example.cpp": _CPP.format(**fields, ties="".join(ties[0]), vector="".join(f"      {line}\n" for line in cpp)),
        "example_cocotb.py": _COCOTB.format(**fields, ties="".join(ties[1]), vector="".join(f"            {line}\n" for line in python)),
    }
