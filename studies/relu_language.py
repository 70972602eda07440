"""A small language model whose zeros are free: every matrix product but attention's own reads what a ReLU made. Trained here.

    python studies/relu_language.py            # five minutes of one core; writes out/relu-language.safetensors (2.7 MB)
    overq study run studies/relu-language.toml --store out/relu-language.db

It reads WikiText-2 from the folder `shared/data` beside the repository, byte by byte: nine tenths of the validation text train, its last
tenth calibrates, the raw test text is scored. Architecture: 3 blocks of width 128, norms followed by ReLU as in "ReLU strikes back"
(Mirzadeh et al. 2023, arXiv 2310.04564, stage 2), ReLU in the feed-forward part; attention's output alone is signed. The weights are made
on demand and not part of the repository, so figures differ a little from one machine to another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from overq.errors import InputError
from overq.study.data import Images
from overq.study.text import windows

WEIGHTS = Path(__file__).parents[1] / "out" / "relu-language.safetensors"
TEXT = Path(__file__).parents[2] / "shared" / "data" / "wikitext2"
WIDTH, BLOCKS, HEADS, WINDOW = 128, 3, 4, 128
STEPS, BATCH, RATE = 6000, 4, 2e-3
TRAINED = 0.9  # share of the validation text; the rest of it calibrates


@cache
def text(name: str) -> Tensor:
    """A file of WikiText-2 as bytes, int64 [N]."""
    if not (TEXT / name).is_file():
        raise InputError(f"the text is absent: {TEXT / name}")
    return torch.tensor(list((TEXT / name).read_bytes()), dtype=torch.int64)


def validation(first: float, last: float) -> Tensor:
    """The validation text between two shares of its length."""
    ids = text("valid.txt")
    return ids[int(first * len(ids)) : int(last * len(ids))]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x).relu()
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(self.up(self.norm2(x).relu()).relu())


class ReluLanguage(nn.Module):
    """Bytes int64 [B, T], T <= 128 -> scores of the next byte [B, T, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)
        for name, p in self.named_parameters():  # as GPT-2 begins: small, and smaller where blocks add to the stream
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / (2 * BLOCKS) ** 0.5 if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bytes(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)).relu())


def train(ids: Tensor, steps: int = STEPS, report: Callable[[str], None] = lambda line: None) -> ReluLanguage:
    """The network after so many steps of AdamW on random windows of a text, bytes int64 [N]; one seed."""
    torch.manual_seed(0)
    model = ReluLanguage()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(steps, 2), pct_start=0.05)
    began = time.perf_counter()
    for step in range(steps):
        at = torch.randint(len(ids) - WINDOW, (BATCH, 1)) + torch.arange(WINDOW + 1)
        batch = ids[at]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == steps - 1:
            report(f"step {step}: {loss.item():.3f} nats a byte, {time.perf_counter() - began:.0f} s")
    return model.eval()


def network() -> nn.Module:
    """The trained network. InputError where it was not trained yet."""
    if not WEIGHTS.is_file():
        raise InputError(f"{WEIGHTS.name} is not there yet: python studies/relu_language.py makes it")
    model = ReluLanguage()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def encoder() -> Callable[[str], list[int]]:
    """For `overq evaluate --task text --tokenizer`."""
    return lambda given: list(given.encode())


def calibration() -> Images:
    return windows("WikiText-2 validation, the last tenth", validation(TRAINED, 1), WINDOW)


def scored() -> Images:
    return windows("WikiText-2 test", text("test-first-half.raw"), WINDOW)


def main() -> None:
    model = train(validation(0, TRAINED), int(sys.argv[1]) if len(sys.argv) > 1 else STEPS, partial(print, flush=True))
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(model.state_dict(), WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
