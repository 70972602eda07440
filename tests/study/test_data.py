"""Images and labels: right values, or one line that says which file is wrong and why; what is left out is said."""

from __future__ import annotations

import os
import socket
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overq.errors import InputError, OverqWarning
from overq.study.data import Images, Preprocess, from_tensors, open_images, some_of
from overq.study.pictures import FRAMES, ORIENTATION, UPPER_BITS

GREY, COLOUR = Preprocess(None, None, (0.0,), (1.0,)), Preprocess(None, None, (0.0,) * 3, (1.0,) * 3)
RAMP = np.linspace(0, 1, 64)[None].repeat(64, 0)


def one(path: Path, preprocess: Preprocess = GREY) -> np.ndarray:
    """The only image of a folder."""
    return open_images(path.parent, None, preprocess, labelled=False).load([0])[0].numpy()


def sixteen_bit_colours(path: Path, values: np.ndarray) -> None:
    """A PNG of 16-bit RGB, which Pillow cannot write. values [H, W, 3]"""
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("8.png", (RAMP * 255).round().astype(np.uint8)),
        ("16.png", (RAMP * 65535).round().astype(np.uint16)),
        ("16.tif", (RAMP * 65535).round().astype(np.uint16)),
        ("16.pgm", (RAMP * 65535).round().astype(np.uint16)),
        ("float.tiff", RAMP.astype(np.float32)),
    ],
)
def test_every_depth_shows_the_same_picture(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    exact = 0.5 / 255 if pixels.dtype == np.uint8 else 0.5 / 65535
    assert np.abs(one(tmp_path / name)[0] - RAMP).max() <= exact + 1e-7
    colour = one(tmp_path / name, COLOUR)
    assert colour.shape == (3, 64, 64)
    assert all(np.array_equal(channel, one(tmp_path / name)[0]) for channel in colour)
    half = one(tmp_path / name, Preprocess(32, 16, (0.0,), (1.0,)))
    assert half.shape == (1, 16, 16)
    assert half.mean() == pytest.approx(0.5, abs=0.01)


def test_twelve_bits_and_inverted_grey_have_their_own_white(tmp_path: Path) -> None:
    values = (RAMP * 65535).round().astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    assert np.abs(one(tmp_path / "a.tif")[0] - (1 - RAMP)).max() < 1e-4
    (tmp_path / "a.tif").unlink()
    twelve = (RAMP[:1, :64] * 4095).round().astype(int)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in twelve.reshape(-1, 2).tolist())
    tags = [(256, 4, 64), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 1), (279, 4, len(packed))]
    directory = b"".join(struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in tags)
    start = 8 + len(packed) + len(packed) % 2
    header = struct.pack("<2sHI", b"II", 42, start)
    content = header + packed.ljust(start - 8, b"\0") + struct.pack("<H", len(tags)) + directory + b"\0" * 4
    (tmp_path / "twelve.tif").write_bytes(content)
    assert np.abs(one(tmp_path / "twelve.tif")[0, 0] - RAMP[0]).max() < 1 / 4095


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bit_modes_are_torchvision_s(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)).convert(mode)
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path, **({"transparency": 0} if mode == "P" else {}))
    with Image.open(path) as stored, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(stored.convert("RGB"), np.float32) / 255  # what torchvision.datasets.folder.pil_loader does
    with warnings.catch_warnings():
        warnings.simplefilter("error", OverqWarning)
        assert np.allclose(one(path, COLOUR), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)).save(p), "pixels of Pillow's mode I, of which nobody"),
        (lambda p: Image.fromarray((RAMP * 255).astype(np.float32)).save(p), "pixels from 0 to 255; they must lie in 0 … 1"),
        (lambda p: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(p), "pixels from nan to nan; they must lie in 0 … 1"),
        (lambda p: Image.new("LAB", (8, 8)).save(p), "pixels of Pillow's mode LAB"),
        (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), "not a readable image"),
        (lambda p: p.write_bytes(b""), "not a readable image"),
    ],
)  # fmt: skip
def test_pixels_that_nobody_can_interpret_are_refused_by_name(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"^{tmp_path}/a.tif: {words}"):
        one(tmp_path / "a.tif")


def test_what_is_read_in_part_is_said(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=turned)
    sixteen_bit_colours(tmp_path / "deep.png", (RAMP[..., None] * (65535, 30000, 0)).round())
    with pytest.warns(OverqWarning) as said:
        images = open_images(tmp_path, None, COLOUR, labelled=False)
    assert sorted(str(w.message) for w in said) == sorted([
        f"{tmp_path}: {UPPER_BITS}: 1 of 4 images (deep.png)",
        f"{tmp_path}: {ORIENTATION}: 1 of 4 images (turned.jpg)",
        f"{tmp_path}: {FRAMES}: 2 of 4 images (two.gif, two.tif)",
    ])  # fmt: skip
    assert np.abs(images.load([0])[0].numpy() - RAMP * np.array([1, 30000 / 65535, 0])[:, None, None]).max() < 1 / 255
    assert images.load([1]).shape == (1, 3, 4, 8)  # not turned
    assert np.allclose(images.load([2, 3]), 10 / 255)


def folder_of(root: Path, *files: str) -> Path:
    for i, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(root / name)
    return root


def test_hidden_and_empty_folders_are_no_classes_and_are_said(tmp_path: Path) -> None:
    folder_of(tmp_path, "cat/a.png", "dog/a.png", ".thumbnails/a.png", "cat/.cache/b.png", "stray.png", "dog/._a.png", "eel/.x.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cow").mkdir()
    (tmp_path / "dog" / "a.heic").write_bytes(b"")
    with pytest.warns(OverqWarning) as said:
        images = open_images(tmp_path, None, COLOUR)
    assert images.labels.tolist() == [0, 1]
    assert len(said) == 1
    start, _, kinds = str(said[0].message).partition(": left out: ")
    assert start == str(tmp_path)
    assert sorted(kinds.split("; ")) == [
        "folders without an image, which are no classes: 2 (cow, eel)",
        "hidden files: 2 (dog/._a.png, eel/.x.png)",
        "hidden folders: 3 (.ipynb_checkpoints, .thumbnails, cat/.cache)",
        "images beside the class folders: 1 (stray.png)",
        "images of a kind that is not read, .heic: 1 (dog/a.heic)",
    ]


def test_nested_folders_come_in_torchvision_s_order(tmp_path: Path) -> None:
    folder_of(tmp_path, "b/2.png", "b/sub/1.png", "b/sub-a/0.PNG", "b/sub/deep/9.png", "a/x/y.jpg", "a-b/1.bmp", "b/10.png")
    files, labels = [], []
    for label, name in enumerate(sorted(entry.name for entry in os.scandir(tmp_path) if entry.is_dir())):  # ImageFolder's two functions
        for root, _, found in sorted(os.walk(tmp_path / name, followlinks=True)):
            files += [f"{root}/{file}" for file in sorted(found)]
            labels += [label] * len(found)
    images = open_images(tmp_path, None, COLOUR)
    assert [images.where(i) for i in range(images.count)] == files
    assert images.labels.tolist() == labels


def test_pipes_sockets_and_links_in_a_circle_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, "a/1.png", "b/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "null.png").symlink_to("/dev/null")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to("self")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "b")  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s.png")
    with pytest.warns(OverqWarning) as said:
        images = open_images(tmp_path, None, COLOUR)
    assert images.labels.tolist() == [0, 0, 1, 1]  # a, what a holds by way of up/b, b, and b/other
    assert "pipes, sockets or devices: " in str(said[0].message)
    assert "links to a folder above: " in str(said[0].message)
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    with pytest.raises(InputError, match="a/gone.png: cannot be read: No such file or directory$"):
        open_images(tmp_path, None, COLOUR)


def table(folder: Path, content: str | bytes, count: int = 3) -> Images:
    folder_of(folder, *(f"{name}.png" for name in "abcdefgh"[:count]))
    (folder / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return open_images(folder, folder / "labels.csv", COLOUR)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbffile,label\r\na.png,0\r\nb.png,1\r\nc.png,2\r\n",
        b"file, label\na.png, 0\n b.png ,1 \nc.png,2\n\n",
        b"\xef\xbb\xbffile;label\r\na.png;0\r\nb.png;1\r\nc.png;2",
        b"id\tlabel\tfile\n7\t0\ta.png\n8\t1\tb.png\n9\t2\tc.png\n",
        b'"file","label"\n"a.png","0"\n"b.png","1"\n"c.png","2"\n',
        b"label,file\r0,a.png\r1,b.png\r2,c.png\r".replace(b"\r", b"\n"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    images = table(tmp_path, content)
    assert images.labels.tolist() == [0, 1, 2]
    assert images.where(1).endswith("labels.csv, line 3")
    assert images.load([2])[0, 0, 0, 0] == pytest.approx(2 / 255)


def test_the_shared_case_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert table(tmp_path, b"\xef\xbb\xbffile,label\r\na.png,0\r\n").labels.tolist() == [0]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        *((text, f"label must be a class number, not '{text}'") for text in
          ("-1", "1.0", "0.5", "nan", "NaN", "", "2024-01-05", "1e3", "0x1", "+1", "½", "٣", "1 2", "inf", "9" * 30)),
        ("99999999", "label 99999999 is beyond any classifier's classes"),
    ],
)  # fmt: skip
def test_a_label_that_is_no_class_number_is_refused_with_its_row(tmp_path: Path, label: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        table(tmp_path, f"file,label\na.png,0\nb.png,{label}\n")
    assert str(refused.value).startswith(f"--labels {tmp_path}/labels.csv, line 3: {words}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file,label\na.png,0\nb.png,1\n./a.png,1\n", ", line 4: ./a.png has label 1, but 0 in line 2"),
        (b"file,label\na.png,0,1\n", ", line 2: 3 fields, but the first line has 2"),
        (b"file,label\na.png\n", ", line 2: 1 fields, but the first line has 2"),
        (b"file,label\na\0.png,0\n", ""),
        (b"file,label\n" + b"x" * 300 + b".png,0\n", ", line 2: no image"),
        (b"file,label,label\na.png,0,1\n", ": the first line must name the columns file and label, each once"),
        (b"", ": the first line must name the columns file and label"),
        (b"file,label\nb\xe4r.png,0\n", ": not a readable CSV file: it is not UTF-8 text"),
        ("file,label\na.png,0\n".encode("utf-16"), ": not a readable CSV file: it is not UTF-8 text"),
        (b'file,label\n"' + b"x" * 200_000, ": not a readable CSV file"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_row(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(InputError) as refused:
        table(tmp_path, content)
    assert str(refused.value).startswith(f"--labels {tmp_path}/labels.csv{words}")


def test_rows_that_stand_twice_count_once_and_are_said(tmp_path: Path) -> None:
    with pytest.warns(OverqWarning, match="labels.csv: 1 rows stand twice; each image counts once$"):
        assert table(tmp_path, "file,label\na.png,0\nb.png,1\n./a.png,0\n").labels.tolist() == [0, 1]


def test_a_label_beyond_the_network_s_classes_is_named_with_its_place(tmp_path: Path) -> None:
    images = table(tmp_path, "file,label\na.png,0\nb.png,1\nc.png,7\n")
    assert images.labels_below(8).tolist() == [0, 1, 7]
    with pytest.raises(InputError, match=r"has labels up to 7, but the network has 3 classes \(0 … 2\); first at .*labels.csv, line 4$"):
        some_of(images, 3).labels_below(3)
    with pytest.raises(InputError, match="labelled images are needed$"):
        from_tensors("x", images.load([0])).labels_below(3)


PIXELS = np.zeros((3, 3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.array([0, -1, 1])}, r", labels\[1\]: label must be a class number, not -1"),
        ({"labels": np.array([0, 2**63, 1], np.uint64)}, r", labels\[1\]: label must be"),
        ({"labels": np.array([0.0, 1, 2])}, ": labels must be integers, not float64"),
        ({"labels": np.array([True, False, True])}, ": labels must be integers, not bool"),
        ({"labels": np.array([0, 1, np.nan])}, ": labels must be integers, not float64"),
        ({"labels": np.array(["0", "1", "2"])}, ": labels must be integers, not <U1"),
        ({"labels": np.zeros((3, 1), int)}, r": labels must be \[3\], one for each image, not \[3, 1\]"),
        ({"labels": np.array([0, 1, None])}, ": not a readable .npz file of plain arrays"),
        ({"images": PIXELS[:0], "labels": np.zeros(0, int)}, ": no image: images is"),
        ({"images": PIXELS[..., :0]}, ": no image: images is"),
        ({"images": PIXELS.astype(np.float32)}, ": images must be uint8"),
        ({"images": PIXELS.transpose(0, 2, 3, 1)}, ": images must be uint8"),
        ({"images": PIXELS[0]}, ": images must be uint8"),
        ({"images": np.array([None, 1], object)}, ": not a readable .npz file of plain arrays"),
    ],
)
def test_an_array_file_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", **{"images": PIXELS, "labels": np.arange(3), **arrays})
    with pytest.raises(InputError, match=f"^{tmp_path}/a.npz{words}"):
        open_images(tmp_path / "a.npz", None, COLOUR)


def test_what_only_looks_like_an_array_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, PIXELS)
    with pytest.raises(InputError, match="a.npz: not a readable .npz file"):
        open_images(tmp_path / "a.npz", None, COLOUR)
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04" + b"\0" * 40)
    with pytest.raises(InputError, match="a.npz: not a readable .npz file"):
        open_images(tmp_path / "a.npz", None, COLOUR)
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(3))
    with pytest.raises(InputError, match="a.npz holds its own labels; leave --labels out$"):
        open_images(tmp_path / "a.npz", tmp_path / "l.csv", COLOUR)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mean": (float("nan"),) * 3}, "mean must be finite numbers"),
        ({"std": (float("inf"),) * 3}, "std must be finite numbers"),
        ({"std": (float("nan"),) * 3}, "std must be finite numbers"),
        ({"mean": ("0.5",) * 3}, "mean must be finite numbers"),
        ({"mean": (123.675, 116.28, 103.53)}, r"mean 123.675 is not of pixels scaled to 0 … 1: divide it by 255"),
        ({"std": (58.4, 57.1, 57.4)}, r"std 58.4 is not of pixels scaled to 0 … 1"),
        ({"std": (0.0, 1.0, 1.0)}, "mean .* must both have 1 or 3 numbers, std positive$"),
        ({"mean": (0.5, 0.5)}, "mean .* must both have 1 or 3 numbers$"),
        ({"resize": 10**9}, "resize must be a whole number of pixels from 1 to 16384, not 1000000000"),
        ({"resize": 0}, "resize must be a whole number of pixels"),
        ({"crop": 22.5}, "crop must be a whole number of pixels"),
        ({"crop": True}, "crop must be a whole number of pixels"),
    ],
)
def test_senseless_preprocessing_is_refused_at_once(changed: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=f"^{words}"):
        Preprocess(**changed)


def test_a_ribbon_is_not_blown_up_to_gigabytes(tmp_path: Path) -> None:
    Image.new("L", (5000, 1)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a.png: 5000x1 pixels become 1280000x256 with a short side of 256"):
        one(tmp_path / "a.png", Preprocess())
