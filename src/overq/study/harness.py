"""`lm-eval` tasks on a language model, quantized or not: its interface, around a module that gives scores to token numbers.

    import lm_eval
    from overq.study.harness import Harness

    model = Harness(quantized, tokenizer.encode, tokenizer.decode, end=tokenizer.eos_token_id)
    lm_eval.simple_evaluate(model=model, tasks=["lambada_openai", "arc_easy"])

Sequences run one at a time, so no padding meets a quantizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from overq.errors import InputError, ToolError
from overq.nn.trees import home

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
except ImportError:
    raise ToolError("tasks of lm-eval need it, and it is not installed: pip install 'overq[lm-eval]'") from None

NEW_TOKENS = 256  # of an answer, where a task does not say how many


class Harness(TemplateLM):
    """A model as `lm_eval.simple_evaluate` takes one.

    model    token numbers int64 [1, T] -> scores [1, T, vocabulary], a tensor or what has `logits`
    encode   text -> token numbers, without special tokens
    decode   token numbers -> text
    end      the token that ends a text; it also stands before one that has no context
    length   tokens that the model reads at most; of a longer text its end
    """

    def __init__(
        self, model: nn.Module, encode: Callable[[str], Sequence[int]], decode: Callable[[list[int]], str], *, end: int, length: int = 2048
    ) -> None:
        super().__init__()
        if length < 2:
            raise InputError(f"a model must read at least 2 tokens to predict one from another, not {length}")
        self.model, self.encode, self.decode, self.end, self.length = model.eval(), encode, decode, end, length

    @property
    def eot_token_id(self) -> int:
        return self.end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return [int(i) for i in self.encode(string)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts: windows of `length` tokens, each token scored once; the last window sees what it can."""
        found = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            cut = utils.get_rolling_token_windows(ids, self.end, max_seq_len=self.length, context_len=1)
            windows = [(("", ""), *utils.make_disjoint_window(pair)) for pair in cut]
            found.append(sum(likelihood for likelihood, _ in self._loglikelihood_tokens(windows)))
        return found

    def _loglikelihood_tokens(self, requests: list[tuple[Any, list[int], list[int]]], **_: Any) -> list[tuple[float, bool]]:
        return [self._likelihood(context, rest) for _, context, rest in requests]

    def _likelihood(self, context: list[int], rest: list[int]) -> tuple[float, bool]:
        """(log-likelihood in nats of `rest` behind the context, whether each of its tokens is the most likely one)."""
        if len(rest) > self.length:
            raise InputError(f"a text of {len(rest)} tokens is to be scored at once, and the model reads {self.length}")
        scores = self.scores([*context, *rest][-self.length - 1 : -1])[-len(rest) :]
        wanted = torch.tensor(rest)
        likely = scores.log_softmax(-1).gather(1, wanted[:, None]).sum()
        return float(likely), bool((scores.argmax(-1) == wanted).all())

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The most likely token, again and again. InputError for a task that wants samples."""
        return [self._continued(context, **options) for context, options in (request.args for request in requests)]

    def _continued(
        self,
        context: str,
        until: Sequence[str] | str = (),
        max_gen_toks: int = NEW_TOKENS,
        do_sample: bool = False,
        temperature: float = 0.0,
        **_: Any,
    ) -> str:
        if do_sample and temperature:
            raise InputError(f"a task wants samples at temperature {temperature}; only the most likely tokens are generated here")
        stops = [until] if isinstance(until, str) else list(until)
        room = max(1, self.length - max_gen_toks)
        ids, made = self.tok_encode(context)[-room:] or [self.end], list[int]()
        while len(made) < max_gen_toks:
            token = int(self.scores([*ids, *made][-self.length :])[-1].argmax())
            if token == self.end:
                break
            made.append(token)
            text = self.decode(made)
            if places := [text.find(stop) for stop in stops if stop and stop in text]:
                return text[: min(places)]
        return self.decode(made)

    def scores(self, ids: list[int]) -> torch.Tensor:
        """Float32 [T, vocabulary] on the CPU, of token numbers."""
        device, _ = home(self.model)
        with torch.no_grad():
            given = self.model(torch.tensor([ids], device=device))
        return getattr(given, "logits", given)[0].float().cpu()
