"""Study files: what is read, and what is refused in one line that names the file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overq.errors import OverqError
from overq.methods import METHODS
from overq.study.plan import read

NETWORK = '[[networks]]\nname = "n"\nmodel = "nets.py:build"\nimages = "test.npz"\ncalibration = "digits"\n'
METHOD = '[[methods]]\nmethod = "overq"\nbits = [3, 4]\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_lists_multiply_out_and_plain_settings_always_stand(tmp_path: Path) -> None:
    study = read(written(tmp_path, f"weight_bits = [8, 4]\nshards = 3\n{NETWORK}{METHOD}cascade = [1, 4]\n"))
    labels = [s.label for s in study.settings]
    assert (study.name, study.shards, labels[0]) == ("mine", 3, "float")
    assert [x for x in labels if x.startswith("uniform")] == [f"uniform:bits={b}:W{w}" for b in range(3, 9) for w in (8, 4)]
    assert [x for x in labels if x.startswith("overq")] == [
        f"overq:bits={b},cascade={c}:W{w}" for b in (3, 4) for c in (1, 4) for w in (8, 4)
    ]


def test_a_study_says_which_plain_widths_always_stand(tmp_path: Path) -> None:
    study = read(written(tmp_path, f"plain = [5]\n{NETWORK}{METHOD}"))
    assert [s.label for s in study.settings] == ["float", "uniform:bits=5:W8", "overq:bits=3:W8", "overq:bits=4:W8"]
    with pytest.raises(OverqError, match="plain is a list of the widths"):
        read(written(tmp_path, f"plain = 5\n{NETWORK}{METHOD}"))


def test_a_transform_that_is_off_is_no_setting_of_its_own(tmp_path: Path) -> None:
    keys = 'bits = 4\nreorder = [false, true]\nequalize = [0.0, 0.5]\nsource = "images"\n'
    study = read(written(tmp_path, f'plain = []\n{NETWORK}[[methods]]\nmethod = "olive"\n{keys}'))
    assert [s.label for s in study.settings[1:]] == [
        "olive:bits=4:W8", "olive:bits=4,equalize=0.5:W8", "olive:bits=4,reorder=true:W8", "olive:bits=4,reorder=true,equalize=0.5:W8",
    ]  # fmt: skip


def test_bias_correction_of_all_methods_or_of_some(tmp_path: Path) -> None:
    study = read(
        written(tmp_path, f'bias_correction = true\n{NETWORK}{METHOD}[[methods]]\nmethod = "olive"\nbias_correction = [false, true]\n')
    )
    labels = [s.label for s in study.settings]
    assert labels[:2] == ["float", "uniform:bits=3,bias_correction=true:W8"]
    assert labels[-4:] == [
        "overq:bits=3,bias_correction=true:W8", "overq:bits=4,bias_correction=true:W8", "olive::W8", "olive:bias_correction=true:W8",
    ]  # fmt: skip
    corrected, plain = (setting.recipe() for setting in study.settings[-1:-3:-1])
    assert corrected == plain.with_(bias_correction=True)
    assert plain.method == METHODS["olive"]()


def test_every_method_takes_every_key_of_a_recipe(tmp_path: Path) -> None:
    keys = 'equalize = 0.5\nreorder = true\nsequential = true\nsource = "distilled"\nedges = false\n'
    (*_, setting) = read(written(tmp_path, NETWORK + '[[methods]]\nmethod = "pwlq"\nbits = 3\n' + keys)).settings
    assert setting.label == "pwlq:bits=3,equalize=0.5,reorder=true,sequential=true,source=distilled,edges=false:W8"
    recipe = setting.recipe(7)
    assert (recipe.method, recipe.equalize, recipe.reorder, recipe.seed, recipe.first) == (METHODS["pwlq"](bits=3), 0.5, True, 7, None)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (network,) = read(written(tmp_path, NETWORK + METHOD)).networks
    assert (network.model, network.images) == (f"{tmp_path}/nets.py:build", f"{tmp_path}/test.npz")
    assert network.calibration == "digits"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", r"not a readable TOML file: Invalid value"),
        (METHOD, r"a study needs at least one network"),
        (NETWORK, r"a study needs at least one of \[\[methods\]\] or \[\[recipes\]\]"),
        (f"shard = 2\n{NETWORK}{METHOD}", r"a study has no key 'shard'"),
        (f"shards = 0\n{NETWORK}{METHOD}", r"a study's shards must be a whole number from 1 on, not 0"),
        (f'seed = "a"\n{NETWORK}{METHOD}', r"a study's seed must be a whole number from 0 on, not 'a'"),
        (f"{NETWORK}image = 3\n{METHOD}", r"a network has no key 'image'"),
        ('[[networks]]\nname = "n"\nmodel = "m:f"\n' + METHOD, r"a network needs the keys 'images' and 'calibration'"),
        (NETWORK + NETWORK + METHOD, r"two networks of a study have the same name"),
        (NETWORK + '[[methods]]\nmethod = "oliv"\n', r"no method 'oliv'; there are uniform, overq, "),
        (NETWORK + METHOD + "ratio = 3\n", r"method 'overq' has no parameter 'ratio'; there are bits, cascade, "),
        (NETWORK + "[[methods]]\nbits = 3\n", r"a study needs 'method'"),
        (NETWORK + METHOD.replace("3", "1"), r"Format.bits must be an integer from 2 to 8, not 1"),
        ("bias_correction = 1\n" + NETWORK + METHOD, r"uniform's bias_correction must be true or false, not 1"),
        (f"shards = 1000000000\n{NETWORK}{METHOD}", r"a study may have 1,000,000 cells, .* this one would have 9,000,000,000 or more"),
        (f"shards = 200000\n{NETWORK}{METHOD}", r"a study may have 1,000,000 cells"),
        (
            f"{NETWORK}{METHOD}" + "".join(f"{k} = {[*range(300)]}\n" for k in ("cascade", "lanes", "x")),
            r"a study may have 1,000,000 cells",
        ),
        (f"weight_bits = {[*range(130000)]}\n{NETWORK}{METHOD}", r"a study may have 1,000,000 cells"),
        (f"weight_bits = 3\n{NETWORK}{METHOD}", r"weight_bits must be whole numbers from 4 to 8, not 3"),
        (f"weight_bits = [8, 4.0]\n{NETWORK}{METHOD}", r"weight_bits must be whole numbers from 4 to 8, not 4.0"),
        (f"weight_bits = true\n{NETWORK}{METHOD}", r"weight_bits must be whole numbers from 4 to 8, not True"),
        (f"seed = {10**30}\n{NETWORK}{METHOD}", r"a study's seed must be a whole number from 0 on"),
        (NETWORK + METHOD + "budget = 4.0\n", r"a budget finds a format for each layer: write it below \[\[recipes\]\]"),
        (NETWORK + '[[methods]]\nmethod = "mx"\ncalibration = "kl"\n', r"MX.* finds its step by the least squared error"),
        (f"{NETWORK}mean = [nan, 0.0, 0.0]\n{METHOD}", r"mean must be finite numbers"),
        (f"{NETWORK}std = [0.2, inf, 0.2]\n{METHOD}", r"std must be finite numbers"),
        (f"{NETWORK}std = [0.2, 0.0, 0.2]\n{METHOD}", r"mean .* and std .* must both have 1 or 3 numbers, std positive"),
        (f"{NETWORK}mean = 0.5\n{METHOD}", r"a network's mean must be a list of numbers, not 0.5"),
        (f"{NETWORK}crop = -1\n{METHOD}", r"a network's crop must be a whole number from 0 on, not -1"),
        (NETWORK.replace('"n"', "3") + METHOD, r"a network's name must be text, not 3"),
        (NETWORK.replace('"test.npz"', "3") + METHOD, r"a network's images must be text, not 3"),
        (NETWORK + METHOD + "cascade = [[1]]\n", r"cascade must be one value or a list of values, not \[1\]"),
        (NETWORK + '[[methods]]\nmethod = ["overq"]\n', r"method must be one value or a list of values, not \['overq'\]"),
        (f'measures = "top5"\n{NETWORK}{METHOD}', r"a measure is one of .*, or file.py:function, not 'top5'"),
        (f"measures = []\n{NETWORK}{METHOD}", r"a study needs at least one measure"),
        ("methods = 3\n" + NETWORK, r"methods must be tables, each written below a line \[\[methods\]\]"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OverqError, match=f"^{tmp_path}/mine.toml: {message}") as caught:
        read(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OverqError, match="not a readable TOML file"):
        read(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OverqError, match="not a readable TOML file"):
        read(tmp_path / "b.toml")


STUDIES = sorted(path.stem for path in (Path(__file__).parents[2] / "studies").glob("*.toml") if path.stem != "pages")


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_of_the_repository_are_readable(name: str) -> None:
    study = read(Path(__file__).parents[2] / "studies" / f"{name}.toml")
    assert study.name == name
    assert "float" in {s.method for s in study.settings}
    assert {s.family for s in study.settings} & {"uniform", "plain_recipe", "mixed_recipe"}, "nothing to compare with"
    assert {s.family for s in study.settings} & {"overq", "overq_recipe"}


def test_the_files_that_the_page_shows_are_readable(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    own, recipes = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    study = read(written(tmp_path, own + recipes))
    assert {s.method for s in study.settings} == {"float", "uniform", "overq", "sparq", "olive", "pwlq", "recipe"}
    assert (study.networks[0].crop, study.shards) == (224, 4)
