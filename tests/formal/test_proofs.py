"""SAT proofs with Yosys. Each test is one sentence about the hardware, true for all inputs; the last ones are false on purpose."""

import re

import pytest

pytest.importorskip("amaranth", reason="the rtl extra (amaranth) is not installed")

from proofs import (
    ELEMENT_STEPS,
    disproved,
    element_design,
    element_harness,
    encoder_design,
    encoder_harness,
    encoder_steps,
    output_design,
    output_harness,
    prove,
)

from overq.spec import ArrayConfig, Format

pytestmark = pytest.mark.yosys

ELEMENTS = {
    "plain": Format.plain(4),
    "plain signed": Format.plain(3, signed=True),
    "range c1": Format(4, 1, fraction_bits=0),
    "range c4": Format(4, 4, fraction_bits=0),
    "precision largest": Format(3, 3, range_bits=0, policy="largest"),
    "full c1": Format(5, 1, 5, 5),
    "full c4": Format(4, 4, 4, 4),
    "full signed": Format(4, 4, 4, 4, signed=True),
    "r3 f3": Format(4, 4, 3, 3),
    "r1 f1": Format(4, 4, 1, 1),
    "r1 f1 of two bits": Format(2, 4, 1, 1),
    "r1": Format(4, 4, 1, 0),
    "f1": Format(3, 2, 0, 1, "largest"),
    "r2 range, signed": Format(4, 4, 2, 0, signed=True),
    "r2 f3 c1": Format(4, 1, 2, 3),
    "r2 f1 signed": Format(4, 4, 2, 1, signed=True),
}
SHORT = {fmt.label: fmt for fmt in (Format(2, 2, 2, 2), Format(2, 4, 2, 0), Format(2, 3, 1, 1), Format(2, 3, 1, 1, evict=1))}
LONG = {
    fmt.label: fmt
    for bits in (2, 3, 4)
    for cascade in (1, 4)
    for policy in ("first", "largest")
    for signed in (False, True)
    for r, f in ((bits, bits), (bits, 0), (0, bits), (max(bits - 1, 1 + signed), bits - 1), (max(1, 2 * signed), 1))
    for fmt in [Format(bits, cascade, r, f, policy, signed)]
} | {fmt.label: fmt for fmt in (Format(3, 4, 2, 2, evict=3), Format(3, 4, 2, 2, "largest", True, evict=2), Format(4, 4, 3, 0, evict=2))}


@pytest.mark.parametrize("name", ELEMENTS)
def test_element_adds_its_shifted_product(name):
    """sum_out = sum_in + ((digit · weight of the right row) << shift), for all inputs, weights and legal states."""
    config = ArrayConfig(ELEMENTS[name], rows=8)
    prove(element_harness(config), element_design(config), ELEMENT_STEPS)


@pytest.mark.parametrize(
    ("name", "pipeline", "target"),
    [("plain", 2, "asic"), ("r1 f1", 1, "fpga"), ("r1 f1", 2, "asic"), ("r3 f3", 2, "fpga"), ("full c4", 2, "asic")],
)
def test_element_with_registers_inside_adds_the_product_of_an_earlier_lane(name, pipeline, target):
    """The same equation, `pipeline` cycles later, with products as gated rows and as `*`."""
    config = ArrayConfig(ELEMENTS[name], 4, rows=8, pipeline=pipeline, target=target)
    prove(element_harness(config), element_design(config), ELEMENT_STEPS)


def test_the_solver_rejects_a_sum_that_does_not_wait_for_its_product():
    config = ArrayConfig(ELEMENTS["r1 f1"], 4, rows=8, pipeline=1)
    assert disproved(element_harness(config.with_(pipeline=0)), element_design(config), ELEMENT_STEPS)


@pytest.mark.parametrize("name", ["range c4", "full c4"])
def test_element_with_two_weight_registers_uses_the_swapped_one(name):
    """The same equation double buffered: own weight is what was loaded when `swap` came, and loading disturbs nothing."""
    config = ArrayConfig(ELEMENTS[name], rows=8, double_buffered=True)
    prove(element_harness(config), element_design(config), ELEMENT_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("bits", [2, 3, 5, 6, 8])
def test_element_adds_its_shifted_product_at_every_width(bits, weight_bits):
    """The same for other digit and weight widths."""
    config = ArrayConfig(Format(bits, 4), weight_bits=weight_bits, rows=8)
    prove(element_harness(config), element_design(config), ELEMENT_STEPS)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("sum_bits", "pipeline"), [(16, 0), (17, 2), (20, 2)])
@pytest.mark.parametrize("fmt", [Format(4, 4, 1, 1), Format(3, 3, 2, 2, signed=True)], ids=lambda fmt: fmt.label)
def test_output_stage_requantizes(fmt, sum_bits, pipeline, relu):
    """t = clamp((sum · multiplier + bias) >> shift), for every sum, bias and shift."""
    config = ArrayConfig(fmt, 2, rows=4, columns=1, sum_bits=sum_bits, pipeline=pipeline)
    prove(output_harness(config, relu), output_design(config, relu), "-tempinduct")


def test_the_solver_rejects_an_output_stage_that_looks_at_too_few_bits():
    config = ArrayConfig(Format(4, 4, 1, 1), 2, rows=4, columns=1, sum_bits=16)
    right = output_design(config, True)
    broken = re.sub(r"assign saturates_0 = [^;]*;", "assign saturates_0 = 1'b0;", right)
    assert broken != right
    assert disproved(output_harness(config, True), broken, "-tempinduct")


@pytest.mark.parametrize("name", SHORT)
def test_encoder_equals_the_reading_of_the_page(name):
    """Digits and states of 8 lanes are those of a left-to-right reading of the definition, for every t, any lanes off, any segments."""
    config = ArrayConfig(SHORT[name], rows=8, segments=True)
    prove(encoder_harness(config), encoder_design(config), encoder_steps(config))


@pytest.mark.parametrize("name", SHORT)
def test_encoder_never_loses_a_value_or_misplaces_a_state(name):
    """Every channel's digits spell its rounded, fine or clipped value, and every state follows one it may follow."""
    config = ArrayConfig(SHORT[name], rows=8)
    prove(encoder_harness(config, equal=False, contract=True), encoder_design(config), encoder_steps(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_encoder_equals_the_reading_and_keeps_the_contract_in_every_mode(name):
    """Both for b = 2 … 4, c = 1 and 4, both policies, both signs, all modes."""
    config = ArrayConfig(LONG[name], rows=8)
    prove(encoder_harness(config, equal=True, contract=True), encoder_design(config), encoder_steps(config))


def test_the_solver_rejects_an_element_with_its_own_weight_only():
    """A broken element has a counterexample: the proof is not empty."""
    config = ArrayConfig(Format(4, 4), rows=8)
    design = element_design(config)
    broken = design.replace("$unsigned(weight_in)", "$unsigned(weight_out)")
    assert broken != design
    assert disproved(element_harness(config), broken, ELEMENT_STEPS)


@pytest.mark.parametrize("contract", [False, True])
def test_the_solver_rejects_an_encoder_that_forgets_to_move(contract):
    """A broken encoder has a counterexample, for the comparison and for the contract."""
    config = ArrayConfig(Format(2, 2), rows=4)
    design = encoder_design(config)
    broken, count = re.subn(r"(s3_digit_3 <= )[^;]+;", r"\1 s2_one_3;", design)
    assert count == 1
    assert disproved(encoder_harness(config, not contract, contract), broken, encoder_steps(config))
