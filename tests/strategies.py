"""Hypothesis strategies: formats, and rows with chosen shares of zeros, outliers and saturating values."""

from __future__ import annotations

from hypothesis import strategies as st

from overq.spec import POLICIES, Format


@st.composite
def formats(draw: st.DrawFn, max_bits: int = 8, max_cascade: int = 16, max_evict: int = 3) -> Format:
    """Any valid Format."""
    cascade = draw(st.integers(0, max_cascade))
    bits, signed = draw(st.integers(2, max_bits)), draw(st.booleans())
    range_bits = draw(st.sampled_from([r for r in range(bits + 1) if not (signed and r == 1)]))
    return Format(
        bits=bits,
        cascade=cascade,
        range_bits=range_bits,
        fraction_bits=draw(st.integers(0 if range_bits or not cascade else 1, bits)),
        policy=draw(st.sampled_from(POLICIES)),
        signed=signed,
        lanes=draw(st.none() | st.integers(2 if cascade else 1, 40)),
        evict=draw(st.integers(0, max_evict)),
    )


def values(fmt: Format) -> st.SearchStrategy[int]:
    """One integer t: a zero, a normal value, a rounding edge, an outlier or a saturating value, of either sign."""
    half, top = fmt.unit // 2, fmt.digit_max * fmt.unit
    edges = [half * k + d for k in (-3, -1, 1, 3) for d in (-1, 0)] + [top + half - 1, top + half]
    magnitude = st.one_of(
        st.integers(0, half - 1),
        st.integers(half, top + half - 1),
        st.sampled_from(edges),
        st.integers(top + half, max(fmt.t_max, top + half)),
        st.sampled_from([fmt.t_max, fmt.t_max + 1, 3 * fmt.t_max]),
    )
    return st.builds(lambda t, minus: -t - 1 if minus else t, magnitude, st.booleans() if fmt.signed else st.just(False))


@st.composite
def rows(draw: st.DrawFn, fmt: Format, max_lanes: int = 80, count: int = 3) -> list[list[int]]:
    """A few rows of one length; zeros are made as frequent as they are in real activations."""
    lanes = draw(st.integers(1, max_lanes))
    value = st.one_of(st.just(0), values(fmt))
    return draw(st.lists(st.lists(value, min_size=lanes, max_size=lanes), min_size=1, max_size=count))
