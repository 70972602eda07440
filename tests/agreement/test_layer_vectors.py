"""The script that exports a real layer for the RTL's testbench: a file that the definition agrees with, and one line for what cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth")

from overq.rtl.vectors import LayerVectors
from overq.spec import Format

SCRIPT = Path(__file__).parents[2] / "scripts" / "layer_vectors.py"


def test_a_layer_of_the_digits_network(tmp_path: Path) -> None:
    """Loading recomputes sums and t from the definition; writing compared them with the integer network's next layer."""
    out = tmp_path / "layer.json"
    subprocess.run([sys.executable, SCRIPT, out, "--layer", "blocks.1.conv1", "--vectors", "20", "--rows", "8"], check=True)
    layer = LayerVectors.load(out)
    assert (layer.vectors, len(layer.tiles), layer.config.columns) == (20, 4, 8)
    assert layer.config.format == Format(4, 4)
    assert any(t for row in layer.next_t() for t in row)


def test_a_layer_whose_outputs_are_added_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path / "layer.json", "--layer", "blocks.1.conv3"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode
    assert "layer 'blocks.1.conv3' does not feed exactly one layer of its own format" in ran.stderr
