"""`overq evaluate --task text`: a small language model in float, plain, rotated and OverQ."""

import json
import math

import pytest
import torch
from torch import nn

from overq import cli
from overq.errors import InputError
from overq.nn import Recipe
from overq.study.language import check_ids, encoder_of, evaluate, split, usual
from overq.study.measure import measured
from overq.study.text import windows

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.up, self.down, self.head = nn.Embedding(128, 24), nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 128)

    def forward(self, ids):
        x = self.embedding(ids)
        return 4 * self.head(x + self.down(nn.functional.silu(self.up(x))))


class Tokenizer:
    def encode(self, text):
        return [ord(c) % 128 for c in text]
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return tmp_path


def test_every_setting_is_compared_with_float_on_the_same_windows():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.up, self.head = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 30)

        def forward(self, ids):
            return self.head(nn.functional.gelu(self.up(self.embedding(ids))) * 9)

    model = Net().eval()
    ids = torch.randint(30, (600,), generator=torch.Generator().manual_seed(0))
    scored, calibration = split(windows("text", ids, 50), 3, 6)
    assert (scored.count, calibration.count) == (6, 3)
    assert torch.equal(scored.load([0])[0], ids[150:200])
    seen = []
    lines = evaluate(model, scored, calibration, usual((4,), (8, 3)), lambda label, done, total: seen.append((done, total)))
    assert [line.setting for line in lines] == [
        "float", "plain A8, a step a token", "plain A3, a step a token", "plain A8, inputs rotated at run time",
        "plain A3, inputs rotated at run time", "OverQ A4 r4 c16 largest evict2, a step a token",
    ]  # fmt: skip
    assert seen[-1][0] == seen[-1][1]
    by = {line.setting: line for line in lines}
    assert by["float"].perplexity == measured(model, scored, range(6), 2, ["perplexity"]).value("perplexity")
    assert abs(by["plain A8, a step a token"].ratio - 1) < 0.01 < abs(by["plain A3, a step a token"].ratio - 1)
    for line in lines[1:]:
        assert line.ratio == pytest.approx(line.perplexity / lines[0].perplexity)
        assert line.low <= line.ratio <= line.high
        assert 0 <= line.agreement <= 100
        assert math.isfinite(line.kl)
    assert by["plain A8, a step a token"].bits == pytest.approx(8 + 16 * (1 / 16 + 1 / 32) / 2, abs=0.2)


def test_the_command(source, capsys, monkeypatch):
    where = f"{source}/net.py"
    out = source / "out.json"
    arguments = ["--task", "text", "--model", f"{where}:Net", "--tokenizer", f"{where}:Tokenizer", "--text", f"{source}/words.txt"]
    monkeypatch.setattr("sys.argv", ["overq", "evaluate", *arguments, "--window", "64", "--plain-bits", "4", "--json", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    data = json.loads(out.read_text())
    assert data["results"][0]["setting"] == "float"
    assert len(data["results"]) == 4
    assert (data["windows"], data["window"]) == (4, 64)
    assert "OverQ A4 r4 c16" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "speech"], "--task is images or text, not 'speech'"),
        (["--task", "text"], "--task text needs --model and --text"),
        (["--text", "a.txt"], "--text is of --task images|--text is of --task text"),
        (["--task", "text", "--model", "m:n", "--text", "a.txt", "--cascades", "4"], "--cascades is of --task images"),
        (["--task", "text", "--model", "m:n", "--text", "a.txt"], "needs the tokenizer of --model m:n"),
    ],
)
def test_senseless_commands_are_refused_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["overq", "evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|"))
    assert said.count("\n") == 1


def test_what_does_not_fit_is_said(source):
    encode = encoder_of("m:n", f"{source}/net.py:Tokenizer")
    assert encode("ab") == [97, 98]
    with pytest.raises(InputError, match="2 of 2 windows for calibration leave none to score"):
        split(windows("text", torch.zeros(20, dtype=torch.long), 10), 2, 4)
    with pytest.raises(InputError, match="token 12 is beyond the network's vocabulary of 12"):
        check_ids(nn.Embedding(12, 3), windows("text", torch.arange(13), 13))
    with pytest.raises(InputError, match=r"--tokenizer .*net.py:Net: TypeError: embedding\(\)"):
        encoder_of("m:n", f"{source}/net.py:Net")("ab")
    assert all(isinstance(recipe, Recipe) and recipe.first is None for _, recipe in usual((4,), (4,)))
