"""A decoder's cached keys and values cross the memory in the format, states and steps included, as `overq.nn.cache` counts them."""

import pytest

from overq.sim.memory import Memory, Plan, cost
from overq.sim.rates import Shares
from overq.sim.workload import Decoder
from overq.spec import ArrayConfig, Format

ALL = Shares(1, 0, 1, 1, 0)
ENOUGH = Memory(2**40, 2**40, 2**40, 1e12, 1)
HEADS, WIDTH, CACHED = 2, 16, 99  # key heads, lanes of a key, tokens before the new one


@pytest.mark.parametrize(
    ("fmt", "bits"),
    [(Format.plain(4), 4), (Format.plain(8), 8), (Format(4, 8, 3, 3, "largest", True), 5), (Format(4, 4, 4, 4), 5.5)],
    ids=["plain A4", "plain A8", "one state bit", "one and a half"],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_cached_keys_and_values_are_in_the_format(fmt, bits, dynamic) -> None:
    machine = ArrayConfig(fmt, 8, 32, 32, segments=True)
    found = {
        work.name: cost(work, machine, ENOUGH, ALL, Plan(dynamic=dynamic))
        for work in Decoder(1, 4 * WIDTH, 4, HEADS, 96).work(tokens=1, cached=CACHED)
    }
    each = WIDTH * bits + 16 * dynamic
    for name in ("scores", "values"):
        assert found[name].dram_weights == HEADS * (CACHED + 1) * each
    for name in ("k", "v"):  # the new token's, on their way into the cache: one step for all heads that the projection makes
        assert found[name].dram_outputs == HEADS * WIDTH * bits + 16 * dynamic
    assert found["o"].dram_weights == (4 * WIDTH) ** 2 * 8
