"""`lm-eval`'s interface around a quantized language model, with its own evaluator and a task that is made here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import overq
from overq import Recipe
from overq.errors import InputError
from overq.methods import Dynamic, OverQ

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'overq[lm-eval]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from overq.study.harness import Harness  # noqa: E402

LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"
END = len(LETTERS)


def encode(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def decode(ids: list[int]) -> str:
    return "".join(LETTERS[i] for i in ids)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=END + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    ids = torch.randint(0, END, (8, 20))
    method = Dynamic(OverQ(4, 8, policy="largest", evict=2), "rms")
    return overq.quantize(transformers.LlamaForCausalLM(config).eval(), ids, Recipe(method, first=None, last=None))


@pytest.fixture
def harness(model: Any) -> Harness:
    return Harness(model, encode, decode, end=END, length=16)


def asked(*args: Any) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def scores(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def test_the_likelihood_of_a_continuation_is_the_sum_over_its_tokens(harness: Harness, model: Any) -> None:
    (found, greedy), (alone, _) = harness.loglikelihood([asked("ab c", "de"), asked("", "de")], disable_tqdm=True)
    all_of_it = scores(model, encode("ab cd"))
    assert found == pytest.approx(float(all_of_it[-2, encode("d")[0]] + all_of_it[-1, encode("e")[0]]), abs=1e-5)
    assert greedy == bool((all_of_it[-2:].argmax(-1) == torch.tensor(encode("de"))).all())
    without = scores(model, [END, *encode("d")])
    assert alone == pytest.approx(float(without[0, encode("d")[0]] + without[1, encode("e")[0]]), abs=1e-5)


def test_long_contexts_lose_their_beginning_and_long_texts_are_cut_in_windows(harness: Harness, model: Any) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    ((found, _),) = harness.loglikelihood([asked(text, "s")], disable_tqdm=True)
    assert found == pytest.approx(float(scores(model, encode(text)[-16:])[-1, encode("s")[0]]), abs=1e-5)
    (rolled,) = harness.loglikelihood_rolling([asked(text)])
    ids, wanted = [END, *encode(text)], 0.0
    for start, new in ((0, 16), (16, 16), (27, 11)):  # the last one sees as much as it can
        part, following = scores(model, ids[start : start + 16]), torch.tensor(ids[start + 1 : start + 17])
        wanted += float(part.gather(1, following[:, None])[-new:].sum())
    assert rolled == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(InputError, match="a text of 43 tokens is to be scored at once, and the model reads 16"):
        harness.loglikelihood([asked("a", text)], disable_tqdm=True)


def test_generation_is_greedy_and_ends_where_the_task_says(harness: Harness, model: Any) -> None:
    ids, made = encode("ab"), list[int]()
    for _ in range(6):
        made.append(int(scores(model, [*ids, *made])[-1].argmax()))
        if made[-1] == END:
            made.pop()
            break
    (whole,) = harness.generate_until([asked("ab", {"until": [], "max_gen_toks": 6})])
    assert whole == decode(made)
    (cut,) = harness.generate_until([asked("ab", {"until": [whole[2:4]], "max_gen_toks": 6})])
    assert cut == whole[: whole.index(whole[2:4])]
    with pytest.raises(InputError, match=r"samples at temperature 0\.7"):
        harness.generate_until([asked("ab", {"do_sample": True, "temperature": 0.7})])


def test_the_evaluator_of_lm_eval_runs_a_task_on_it(harness: Harness) -> None:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    rows = [{"question": "a b", "choices": ["c", "d"], "answer": 0}, {"question": "d e", "choices": ["f", "z"], "answer": 1}]

    def made(**_: Any) -> Any:
        import datasets

        return {"test": datasets.Dataset.from_list(rows)}

    task = ConfigurableTask(config={
        "task": "letters", "custom_dataset": made, "test_split": "test", "output_type": "multiple_choice",
        "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "answer", "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
    })  # fmt: skip
    found = lm_eval.simple_evaluate(model=harness, tasks=[task], task_manager=TaskManager(), bootstrap_iters=0)
    right = []
    for row in rows:
        likely = [value for value, _ in harness.loglikelihood([asked(row["question"], f" {c}") for c in row["choices"]], disable_tqdm=True)]
        right.append(likely.index(max(likely)) == row["answer"])
    assert found["results"]["letters"]["acc,none"] == sum(right) / 2
