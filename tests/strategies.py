"""Hypothesis strategies: formats, and rows with chosen shares of zeros, outliers and saturating values."""

from __future__ import annotations

from hypothesis import strategies as st

from overq.spec import POLICIES, Format


@st.composite
def formats(draw: st.DrawFn, max_bits: int = 8, max_cascade: int = 16) -> Format:
    """Any valid Format."""
    cascade = draw(st.integers(0, max_cascade))
    modes = draw(st.sampled_from([(True, True), (True, False), (False, True)] + ([(False, False)] if cascade == 0 else [])))
    return Format(
        bits=draw(st.integers(2, max_bits)),
        cascade=cascade,
        range_overwrite=modes[0],
        precision_overwrite=modes[1],
        policy=draw(st.sampled_from(POLICIES)),
        signed=draw(st.booleans()),
        lanes=draw(st.none() | st.integers(2 if cascade else 1, 40)),
    )


def values(fmt: Format) -> st.SearchStrategy[int]:
    """One integer t: a zero, a normal value, a rounding edge, an outlier or a saturating value, of either sign."""
    top = fmt.digit_max * 2 * fmt.base
    edges = [fmt.base * k + d for k in (-3, -1, 1, 3) for d in (-1, 0)] + [top + fmt.base - 1, top + fmt.base]
    magnitude = st.one_of(
        st.integers(0, fmt.base - 1),
        st.integers(fmt.base, top + fmt.base - 1),
        st.sampled_from(edges),
        st.integers(top + fmt.base, fmt.t_max),
        st.sampled_from([fmt.t_max, fmt.t_max + 1, 3 * fmt.t_max]),
    )
    return st.builds(lambda t, minus: -t - 1 if minus else t, magnitude, st.booleans() if fmt.signed else st.just(False))


@st.composite
def rows(draw: st.DrawFn, fmt: Format, max_lanes: int = 80, count: int = 3) -> list[list[int]]:
    """A few rows of one length; zeros are made as frequent as they are in real activations."""
    lanes = draw(st.integers(1, max_lanes))
    value = st.one_of(st.just(0), values(fmt))
    return draw(st.lists(st.lists(value, min_size=lanes, max_size=lanes), min_size=1, max_size=count))
