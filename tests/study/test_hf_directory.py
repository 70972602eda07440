"""A local model directory of `transformers` as --model hf:DIRECTORY; nothing is fetched, unpickled or run that came with it."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from overq.cli import app
from overq.errors import InputError, ToolError
from overq.nn import Recipe, quantize, summary
from overq.study import huggingface
from overq.study.models import load_model

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=32,
            vocab_size=50, max_position_embeddings=32)
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder, model.eval()


def test_the_network_is_the_one_that_was_saved(saved) -> None:
    folder, model = saved
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    loaded = load_model(f"hf:{folder}")
    assert not loaded.training
    answer = loaded(ids)
    assert torch.equal(answer.logits, model(ids).logits)
    assert answer.past_key_values is None
    assert summary(quantize(loaded, [ids], Recipe())).quantized_share > 0.9


def test_a_tokenizer_gives_numbers_without_special_tokens(tmp_path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"<s>": 0, "one": 1, "two": 2, "?": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>").save_pretrained(tmp_path)
    assert huggingface.encoder(tmp_path)("two one three") == [2, 1, 3]
    with pytest.raises(InputError, match=r"^hf:.*: no usable tokenizer: "):
        huggingface.encoder(tmp_path.parent)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, r"its network is code of its own \(auto_map\), which is not run"),
        ({"architectures": ["NoSuchModel"]}, r"transformers [\d.]+ has no model 'NoSuchModel'"),
        ({"architectures": ["pipeline"]}, r"has no model 'pipeline'"),
        ({"architectures": ["os.system"]}, r"names no architecture, but 'os.system'"),
        ({"architectures": []}, r"no config.json that names an architecture"),
        ({"quantization_config": {}}, r"its weights are quantized already"),
        ({"num_attention_heads": "many"}, r"\w+Error: "),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(saved, tmp_path, change, said) -> None:
    folder, _ = saved
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=f"^--model hf:.*: .*{said}") as error:
        load_model(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)


def test_pickles_hubs_and_missing_packages(saved, tmp_path, monkeypatch) -> None:
    folder, model = saved
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no \.safetensors and no \.gguf in it; pickled weights are not read$"):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(InputError, match=r"^--model hf:meta/llama: no such directory; models are read from local directories only$"):
        load_model("hf:meta/llama")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ToolError, match=r"needs transformers, which is not installed: pip install 'overq\[lm\]'$"):
        load_model(f"hf:{folder}")


def test_a_vision_model_is_evaluated_on_images(tmp_path) -> None:
    torch.manual_seed(0)
    transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16, num_attention_heads=4, num_hidden_layers=1, intermediate_size=32, image_size=16, patch_size=8
        )
    ).save_pretrained(tmp_path / "vit")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", images=rng.integers(0, 256, (12, 3, 16, 16), np.uint8), labels=np.arange(12) % 2)
    done = CliRunner().invoke(app, [
        "evaluate", "--model", f"hf:{tmp_path / 'vit'}", "--images", str(tmp_path / "images.npz"), "--samples", "4", "--resize", "0",
        "--crop", "0", "--bits", "4", "--plain-bits", "8", "--cascades", "4", "--json", str(tmp_path / "r.json"),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "vit" in json.loads((tmp_path / "r.json").read_text())["model"]
