"""Write the values that the explorer shows where a report has none of its own: of the built-in digits network.

python scripts/explorer_vectors.py
"""

from __future__ import annotations

import json
from pathlib import Path

from overq.nn import observe
from overq.study import digits
from overq.study.seen import inputs_of

FILE = Path(__file__).parents[1] / "src" / "overq" / "report" / "web" / "vectors.json"
SHOWN = ("blocks.0.conv2", "blocks.1.conv1", "blocks.3.conv3", "blocks.4.conv1", "blocks.6.conv2", "blocks.7.conv3")


def main() -> None:
    """Six layers, four positions each."""
    found = {each.name: each for each in inputs_of(observe(digits.network(), digits.images("calibration")[0]))}
    layers = [{"name": name, "low": found[name].low, "lanes": found[name].lanes, "vectors": found[name].vectors} for name in SHOWN]
    source = "what layers of the built-in digits network see"
    FILE.write_text(json.dumps({"network": "digits network", "source": source, "layers": layers}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
