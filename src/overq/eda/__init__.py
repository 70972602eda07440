"""Tools around hardware that know nothing of its generator: Liberty, netlists, Yosys, Verilog simulators. No Amaranth here."""
