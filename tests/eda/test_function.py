"""Liberty's own operators: what binds stronger, and that a function is never handed on as it stands."""

import itertools

import pytest

from overq.eda.function import evaluate, expression, names, parse
from overq.errors import InputError

VALUES = {"A": True, "B": False, "C": True}


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        ("A & !B", 1),
        ("(A B)'", 1),
        ("A*B + C", 1),
        ("!A ^ B", 0),
        ("(A | B) & !C", 0),
        ("A' + B", 0),
        ("B & A ^ C", 0),  # B & (A ^ C)
        ("C | A ^ A & B", 1),
        ("A ^ C B", 0),  # (A ^ C) & B
        ("A ^ C | A", 1),
        ("!A'", 1),
        ("(A)(C)", 1),
        ("A !B", 1),
        ("1", 1),
        ("0 + B", 0),
        ("((A*C)+(B'))'", 0),
    ],
)
def test_functions_are_read_as_liberty_means_them(function, answer):
    assert evaluate(function, VALUES) == bool(answer)
    assert eval(expression(function), {"__builtins__": {}}, {k: int(v) for k, v in VALUES.items()}) & 1 == answer


def test_xor_binds_stronger_than_and():
    for a, b, c in itertools.product((False, True), repeat=3):
        assert evaluate("A & B ^ C", {"A": a, "B": b, "C": c}) == (a and (b ^ c))


def test_names_of_pins():
    assert names('!A[0] & (B1 | A[0]) ^ "1X"') == ["A[0]", "B1", "1X"]


@pytest.mark.parametrize(
    "function", ["", "A &", "(A", "A)", "__import__('os')", "A $ B", "& A", "A + * B", "!" * 3, "(" * 5000 + "A" + ")" * 5000]
)
def test_what_is_no_function_is_refused_in_one_line(function):
    with pytest.raises(InputError, match=r"^cannot read the Liberty function"):
        parse(function)


def test_a_pin_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"reads 'Z', which is no pin$"):
        evaluate("A & Z", VALUES)
