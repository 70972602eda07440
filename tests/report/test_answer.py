"""The answer in plain words says what the records say."""

from __future__ import annotations

from dataclasses import replace

from report_cases import RECORDS, record

from overq.records import Record
from overq.report.answer import answer, groups
from overq.report.names import words


def of(*records: Record) -> str:
    (group,) = groups(records)
    return answer(group).headline


def test_overq_is_taken_where_it_stores_less_than_plain_needs() -> None:
    assert of(*RECORDS) == (
        "Take OverQ A4 c4: it stores 5 bits a value and loses 0.5 points (-2.0 to 3.0 with 95 % confidence)".replace(
            "-2.0 to 3.0", f"{-(89.5 - 88):.1f} to {-(89.5 - 92):.1f}"
        )
        + ". Plain quantization needs 6 bits to stay within 1 point of float."
    )


def test_plain_is_taken_where_overq_buys_nothing() -> None:
    more = record("uniform:bits=5:W8", 178, 5, "uniform")
    said = of(*RECORDS, more)
    assert said.startswith("Take plain A5: it stores 5 bits a value and loses 1 point")
    assert "OverQ needs as many stored bits" in said


def test_as_many_bits_and_better_beyond_chance_is_better() -> None:
    worse = record("uniform:bits=5:W8", 150, 5, "uniform")
    best = record("overq:bits=4,cascade=8:W8", 185, 5, "overq")
    weak = record("float", 152, 32, "float")
    assert of(weak, worse, best).startswith("Take OverQ A4 c8: it stores 5 bits a value and gains 16.5 points")
    assert "beyond chance" in of(weak, worse, best)


def test_a_cheaper_rival_is_named() -> None:
    rival = record("pwlq:bits=4:W8", 179, 4.5, "pwlq")
    assert of(*RECORDS, rival).endswith("Fewer still: PWLQ A4, 4.5 bits, loses 0.5 points (-1.5 to 2.5 with 95 % confidence).")


def test_where_nothing_will_do_it_says_so() -> None:
    assert of(RECORDS[0], RECORDS[1]).startswith("Take none of these")
    assert of(RECORDS[1]) == "No answer: the float network was not run."


def test_the_table_has_a_line_for_each_loss() -> None:
    (group,) = groups(RECORDS)
    table = answer(group).table
    assert [row[0] for row in table] == ["ready to lose", "0.5 points", "1 point", "2 points", "5 points"]
    assert table[2] == ("1 point", "6 bits: plain A6", "5 bits: OverQ A4 c4", "none")
    assert table[4][1] == "4 bits: plain A4"


def test_the_reasons_hold_a_paired_test_at_equal_stored_bits() -> None:
    (group,) = groups(RECORDS)
    reasons = answer(group).reasons
    assert reasons[0] == "Float gives 90.00 % on 200 images."
    assert any(
        line.startswith("At 5 bits stored: OverQ A4 c4 89.50 %, the best plain 85.00 % (plain A4); difference +4.50") for line in reasons
    )


def test_networks_and_widths_of_weights_are_apart() -> None:
    other = record("uniform:bits=4:W4", 100, 4, "uniform", weight_bits=4)
    assert [(g.network, g.weight_bits, len(g.settings)) for g in groups((*RECORDS, other))] == [("net", 8, 5), ("net", 4, 1)]


def test_labels_become_words() -> None:
    label = "recipe:bits=3,cascade=8,policy=largest,reorder=true,bias_correction=true,budget=4.5:W8"
    assert words(record(label, 1, 3, "overq_recipe")) == "OverQ A3 c8, largest first, reordered, bias corrected, budget 4.5"
    assert words(record("A3 range+precision c=6", 1, 3, "overq")) == "OverQ A3 range+precision c=6"
    assert words(record("A3 plain", 1, 3, "plain")) == "plain A3"
    assert words(record("own name", 1, 3, "plain")) == "own name"


def test_a_language_model_is_judged_by_its_perplexity() -> None:
    def of_text(label: str, bits: float, method: str, ratio: float) -> Record:
        own = {"perplexity": 20 * ratio, "ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
        return replace(record(label, 0, bits, method), top1=None, right="", own=own)

    base = replace(of_text("float", 32, "float", 1.0), own={"perplexity": 20.0})
    found = of(base, of_text("uniform:bits=8:W8", 8, "uniform", 1.015), of_text("overq:bits=4,cascade=4:W8", 5, "overq", 1.012))
    assert found == (
        "Take OverQ A4 c4: it stores 5 bits a value and has 1.2 % more perplexity than float (0.2 to 2.2 with 95 % confidence). "
        "Plain quantization needs 8 bits to stay within 2 % of float's perplexity."
    )
