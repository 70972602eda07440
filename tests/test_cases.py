"""Small inputs that once failed, as a new user would meet them; they lie beside the checkout, each prints what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("OVERQ_CASES", Path(__file__).resolve().parents[2] / "shared" / "cases"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the cases are absent: no folder {FOLDER}")]

# script -> patterns that its output must show, each on a line, and what it must not show
EXPECTED: dict[str, tuple[tuple[str, ...], str]] = {
    "checkpoint_prefixes": (
        (r"module\. +loaded", r"_orig_mod\. +loaded", "Lightning +loaded", "model/state_dict +loaded", "thop +loaded"),
        "Error",
    ),
    "empty_batch": (
        ("LazyConv2d: CalibrationError: .* no shape yet", "batch of 0 images: CalibrationError: .*every batch is empty"),
        "another",
    ),
    "encoder_padding_mask": (("float runs: ",), "quantize: "),
    "fold_count": ((r"whole pixels packed for OverQ too +916544 \+0.0%",), "Error"),
    "hidden_class_folder": (
        (r"clean +\[0 1\]", r"with hidden dir +\[0 1\]", r"left out: hidden folders: 1 \(.ipynb_checkpoints\)"),
        "Error",
    ),
    "sixteen_bit": ((r"8bit.png +mean 0.498", r"16bit.png +mean 0.500", r"float.tif +mean 0.500"), "Error"),
    "shared_layer": (("plain 8: .*note 'called 2 times in a run", "OverQ 8: .*note 'called 2 times in a run"), "Error"),
    "integer_silent": ((r"(?:.* (?:9\d|1\d\d)\.\d dB\n){5}",), "Error"),
    "tokens_integer": ((r"\[8, 12\]: \(8, 5\)", r"\[8, 3, 12\]: \(8, 3, 5\)"), "Error"),
    "half_then_save": ((r"(?:weights x .*float32, loaded == saved: True.*\n){3}",), "False"),
    "lost_hooks": (
        ("hook that scales the output +A8W8 SQNR +3[5-9]", "_conv_forward replaced .* SQNR +3[5-9]", "'patched forward'"),
        "Error",
    ),
    "stale_weight_norm": (("weight_norm: A8W8 SQNR 3[5-9]", "prune: A8W8 SQNR 3[5-9]"), "Error"),
    "transformer_fastpath": (("gradients on : SQNR +16.*ran: 4", "torch.no_grad: SQNR +16.*ran: 4"), "ran: 0"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_gives_what_a_user_expects(name: str, tmp_path: Path) -> None:
    (tmp_path / "case.py").write_text((FOLDER / f"{name}.py").read_text())
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::FutureWarning", "case.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    shown = ended.stdout + ended.stderr
    assert ended.returncode == 0, shown
    patterns, never = EXPECTED[name]
    assert all(re.search(pattern, shown) for pattern in patterns), shown
    assert never not in ended.stdout, shown


def test_every_script_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXPECTED)


def test_a_table_of_labels_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    from PIL import Image

    from overq.study.data import Preprocess, open_images

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert open_images(tmp_path, FOLDER / "label_bom.csv", Preprocess(None, None)).labels.tolist() == [0]


@pytest.mark.parametrize("name", ["liberty_multiline.lib", "asap_like.lib"])
def test_every_cell_of_a_liberty_file_is_read(name: str) -> None:
    from overq.eda.liberty import Library

    library = Library(FOLDER / name)
    assert library.names == re.findall(r'^\s*cell\s*\(\s*"?(\w+)', (FOLDER / name).read_text(), re.M)
    assert all(library.cell(cell).pins for cell in library.names)
