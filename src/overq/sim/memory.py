"""Buffers and DRAM around the array: cycles with stalls, and what is moved, for three dataflows.

Cycles of a fold are the array's, exact for the weight-stationary array, which is ours; SCALE-Sim's formulas for the other two:

    weight-stationary   rows hold lanes, columns outputs, vectors stream    2·rows + columns + vectors − 2
    output-stationary   rows hold vectors, columns outputs, lanes stream    rows + columns + lanes − 2
    input-stationary    rows hold lanes, columns vectors, outputs stream    2·rows + columns + outputs − 2

The memory is a model, a fold at a time: while a fold computes, what the next one needs comes in and what the last one left goes out,
and a fold takes the longer of the two (`Memory.double_buffered`), or one after the other. Every piece is contiguous and takes whole
bursts. Of the two orders of the loops, and so of what is read again, the one with less DRAM traffic is taken, for every format alike.
Several arrays share buffers and DRAM. A layer is split over them by groups, by blocks of output channels (each array holds other weights,
all meet the same vectors) or by vectors (all hold the same weights), whichever takes least cycles, for each layer and format.
OverQ uses the previous lane's weight in all three: it is in the row before (ws), in the weight's register on its way down (os), or on
its way right in the row before (is).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from overq.errors import InputError
from overq.sim.code import Code, code_of
from overq.sim.rates import Shares
from overq.sim.timetable import fold_cycles
from overq.sim.workload import Work
from overq.spec import ArrayConfig

DATAFLOWS = ("ws", "os", "is")
SPLITS = ("groups", "outputs", "vectors")
SCALE_BITS = 16  # a dynamic step is a bfloat16


@dataclass(frozen=True)
class Memory:
    """Buffers in bytes (each twice where double-buffered), DRAM bandwidth in bytes a cycle, bursts in bytes."""

    maps: int = 256 * 1024
    weights: int = 256 * 1024
    sums: int = 256 * 1024
    bandwidth: float = 32.0
    burst: int = 64
    double_buffered: bool = True

    def __post_init__(self) -> None:
        if min(self.maps, self.weights, self.sums, self.burst) < 1 or not 0 < self.bandwidth < float("inf"):
            raise InputError("buffers, burst and bandwidth of a memory are positive")

    def shared(self, among: int) -> Memory:
        """What each of several arrays has of it."""
        maps, weights, sums = (max(size // among, 1) for size in (self.maps, self.weights, self.sums))
        return replace(self, maps=maps, weights=weights, sums=sums, bandwidth=self.bandwidth / among)

    def time(self, bits: float) -> float:
        """Cycles for one contiguous piece."""
        return -(-bits // (8 * self.burst)) * self.burst / self.bandwidth


@dataclass(frozen=True)
class Plan:
    """How layers run.

    dynamic          each channel vector has its own step, stored beside it
    encode_on_read   maps lie in memory as t
    output_bits      of an output value in memory; default: as much as the input's
    arrays           how many there are of the array; several are weight-stationary
    """

    dataflow: str = "ws"
    dynamic: bool = False
    encode_on_read: bool = False
    output_bits: float | None = None
    arrays: int = 1

    def __post_init__(self) -> None:
        if self.dataflow not in DATAFLOWS:
            raise InputError(f"no dataflow {self.dataflow!r}; known: {', '.join(DATAFLOWS)}")
        if self.arrays < 1 or (self.arrays > 1 and self.dataflow != "ws"):
            raise InputError(f"{self.arrays} arrays with the dataflow {self.dataflow}: one, or several with ws")


@dataclass(frozen=True)
class Cost:
    """One layer, `repeat` times, on `arrays` that `split` it in one of three ways.

    cycles   stalls among them; macs: multiplications; passes: vectors through all folds; the others below are bits

    encoded, finished   values that the encoder makes lanes of (each once; with encode_on_read at every pass); sums that are done
    array_*   between buffers and array: digits, states, the stationary or streamed weights, partial sums
    dram_*    input maps (states and steps among them), weights or cached keys and values, output maps; dram_steps: dynamic steps alone
    masked, runs   what the input map would take compressed, by a bit mask of zeros and by run lengths (4 bits), once
    """

    name: str
    repeat: int
    arrays: int
    split: str
    macs: int
    folds: int
    cycles: int
    stalls: int
    utilization: float
    passes: int
    encoded: int
    finished: int
    array_digits: int
    array_states: int
    array_weights: int
    array_sums: int
    dram_maps: int
    dram_weights: int
    dram_outputs: int
    dram_steps: int
    map_once: int
    masked: int
    runs: int

    @property
    def dram(self) -> int:
        return self.dram_maps + self.dram_weights + self.dram_outputs


@dataclass(frozen=True)
class _Pass:
    """Folds of one dataflow: `across` blocks of columns times `deep` folds that add up, each with `length` streamed vectors."""

    across: int
    deep: int
    length: int
    streamed: int  # bits of the streamed operand, all of it once
    held: int  # bits of the stationary operand
    streamed_buffer: int
    held_buffer: int


def cost(
    work: Work,
    machine: ArrayConfig,
    memory: Memory,
    shares: Shares,
    plan: Plan | None = None,
    code: Code | None = None,
) -> Cost:
    """One layer on the array, or on several, with their memory.

    shares   how many lanes are zeros, for what compression would save
    code     bits of a value; default: those of the machine's format
    """
    plan, code = plan or Plan(), code or code_of(machine.format)
    made = (_cost(work, machine, memory, shares, plan, code, split) for split in (SPLITS if plan.arrays > 1 else ("",)))
    return min(made, key=lambda cost: (cost.cycles, cost.dram))


def _cost(work: Work, machine: ArrayConfig, memory: Memory, shares: Shares, plan: Plan, code: Code, split: str) -> Cost:
    dataflow, arrays = plan.dataflow, plan.arrays
    layer = work.layer()
    vectors, depth = layer.vectors, layer.depth
    pixels = work.images * work.height * work.width * work.groups
    state = code.beside(work.channels)
    each = work.channels * code.unencoded if plan.encode_on_read else work.channels * code.digit + state
    steps = pixels * SCALE_BITS * plan.dynamic
    maps = pixels * each + steps
    weights = _held_bits(work, machine, plan.dynamic, code)
    per_value = each / work.channels if plan.output_bits is None else plan.output_bits
    outputs = round(vectors * work.outputs * work.groups * per_value) + vectors * work.groups * SCALE_BITS * plan.dynamic
    psum = machine.depth_bits(depth)
    together = layer.together(machine) if dataflow == "ws" else 1
    chunks = -(-work.groups // together)
    if dataflow == "ws":
        deep, across = len(layer.tiles(machine, range(together))), -(-together * work.outputs // machine.columns)
        turns = -(-across // arrays) if split == "outputs" else across
        length = -(-vectors // arrays) if split == "vectors" else vectors
        if split == "groups":  # each array has its share of bandwidth and buffers
            memory = memory.shared(arrays)
        one = _Pass(turns, deep, length, maps // chunks, weights // chunks, memory.maps, memory.weights)
        compute = fold_cycles(machine, one.length)
    elif dataflow == "is":
        deep, across = len(layer.tiles(machine)), -(-vectors // machine.columns)
        one = _Pass(across, deep, work.outputs, weights // chunks, maps // chunks, memory.weights, memory.maps)
        compute = fold_cycles(machine, one.length)
    else:
        across = -(-work.outputs // machine.columns)
        one = _Pass(across, 1, vectors, maps // chunks, weights // chunks, memory.maps, memory.weights)
        compute = machine.rows + machine.columns + depth - 2
    rows = -(-vectors // machine.rows) if dataflow == "os" else 0
    wide = 1 if split == "groups" else arrays
    folds, alone, total, read = _scheduled(one, machine, memory, psum * wide, outputs // chunks, compute, rows)
    inner = -(-chunks // arrays) if split == "groups" else chunks  # one after another, on each array
    streamed, held = read
    moved = (held, streamed) if dataflow == "is" else (streamed, held)
    lanes, packed = vectors * depth * work.groups, code.digit + state / work.channels
    again = 1 if dataflow == "is" else across
    copies = arrays if split == "vectors" else 1
    folds = folds * across // one.across * copies
    loads = {"ws": together * copies, "os": rows, "is": one.across}[dataflow]
    passes = 1 if dataflow == "os" else 2 * one.deep - 1
    elements = machine.rows * machine.columns
    return Cost(
        name=work.name,
        repeat=work.repeat,
        macs=work.macs,
        arrays=arrays,
        split=split,
        folds=folds * chunks,
        cycles=round(total * inner),
        stalls=round((total - alone) * inner),
        utilization=work.macs / (max(total, 1) * inner * elements * arrays),
        passes=folds * one.length * chunks,
        encoded=lanes * again if plan.encode_on_read else pixels * work.channels,
        finished=vectors * work.outputs * work.groups,
        array_digits=lanes * again * code.digit,
        array_states=round(lanes * again * (packed - code.digit)),
        array_weights=weights * loads,
        array_sums=vectors * work.outputs * work.groups * passes * psum,
        dram_maps=round(moved[0] * chunks),
        dram_weights=round(moved[1] * chunks),
        dram_outputs=outputs,
        dram_steps=steps,
        map_once=maps,
        masked=round(pixels * work.channels * (1 + shares.kept * packed)) + steps,
        runs=round(pixels * work.channels * shares.entries * (packed + 4)) + steps,
    )


def _held_bits(work: Work, machine: ArrayConfig, dynamic: bool, code: Code) -> int:
    """Of the stationary operand in memory: weights, or cached keys and values, which lie there in the format, each vector with its step."""
    size = work.layer().weights.size
    if not work.cache:
        return size * machine.weight_bits
    return size // work.cache * (work.cache * code.digit + code.beside(work.cache) + SCALE_BITS * dynamic)


def _scheduled(
    one: _Pass, machine: ArrayConfig, memory: Memory, psum: int, outputs: int, compute: int, rows: int
) -> tuple[int, float, float, tuple[float, float]]:
    """(folds, cycles of the array alone, cycles with the memory, (streamed bits, stationary bits) read), of one group's product.

    rows   output-stationary: blocks of vectors along the rows, which the streamed vectors then are; else 0
    """
    if rows:
        parts, length = rows, one.length
    else:
        width = machine.columns * psum
        length = one.length if one.deep == 1 else min(one.length, 8 * memory.sums // width)
        if length < 1:
            raise InputError(f"a sum buffer of {memory.sums} bytes holds not one row of {machine.columns} sums of {psum} bits")
        parts = -(-one.length // length)
        length = -(-one.length // parts)  # parts as long as each other, but for the last vectors
        compute += length - one.length
    if machine.double_buffered and not rows:
        first, compute = compute + 1, max(length + machine.gap, machine.rows)
    else:
        first = compute
    folds = parts * one.across * one.deep
    # Two orders: parts outside, or columns outside. What does not fit its buffer is read again for each turn of the inner loop.
    part_fits = one.streamed <= 8 * one.streamed_buffer * parts
    all_fits = one.streamed <= 8 * one.streamed_buffer
    held_fits, block_fits = one.held <= 8 * one.held_buffer, one.held <= 8 * one.held_buffer * one.across
    orders = [
        (one.streamed * (1 if part_fits else one.across), one.held * (1 if held_fits else parts)),
        (one.streamed * (1 if all_fits else one.across), one.held * (1 if block_fits else parts)),
    ]
    streamed, held = min(orders, key=sum)
    inward = [streamed / folds, held / folds]
    transfer = sum(memory.time(bits) for bits in inward)
    out = memory.time(outputs / (parts * one.across))
    alone = first + (folds - 1) * compute
    if memory.double_buffered:
        lasts = parts * one.across  # folds behind which sums are done and go out
        total = transfer + max(first, transfer) + max(folds - 1 - lasts, 0) * max(compute, transfer)
        total += min(lasts, folds - 1) * max(compute, transfer + out) + out
    else:
        total = alone + folds * transfer + parts * one.across * out
    return folds, alone, total, (streamed, held)
