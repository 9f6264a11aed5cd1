"""What is written is what published checkpoints of each family have."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tensor_shapes import tensor_shapes
from tiny_families import family, names
from tiny_publish import published, write_checkpoint
from tiny_tokenizer import add_tokens, text_entries
from tiny_training import initialize

from inference_pio.tiny import tiny_checkpoint


@pytest.mark.parametrize("name", names())
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    chosen = family(name)
    tensors = published(chosen, chosen.model())
    assert {key: tuple(value.shape) for key, value in tensors.items()} == tensor_shapes(chosen.config)
    kinds = {key: value.dtype for key, value in tensors.items()}
    full = {key for key, dtype in kinds.items() if dtype == torch.float32}
    assert full == {key for key in kinds if key.endswith("e_score_correction_bias")}
    assert set(kinds.values()) <= {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("name", names())
def test_a_written_checkpoint_is_the_model(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    chosen = family(name)
    model = chosen.model().eval()
    initialize(model)
    model.load_state_dict({key: value.bfloat16().float() for key, value in model.state_dict().items()})
    tokenizer = text_entries(tiny_checkpoint("qwen3") / "tokenizer.json")
    add_tokens(tokenizer, chosen.tokens)
    write_checkpoint(chosen, model, tokenizer, tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-4)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == chosen.config
    assert config.get("vision_config", {}).get("model_type") == ("qwen3_vl" if name == "qwen3_vl" else None)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == tokenizer.get_vocab_size()
    assert (tmp_path / "out/preprocessor_config.json").exists() == (name == "qwen3_vl")


def test_prediction_layers_are_random_and_repeatable() -> None:
    chosen = family("glm4_moe_lite")
    first, again = (chosen.extra_tensors(chosen.config, seed=5) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(name.startswith("model.layers.4.") for name in first) and len(first) > 30
    assert all(tensor.float().std() > 0.03 for tensor in first.values())
    assert not family("qwen3").extra_tensors({}, 0)


def test_random_routers_and_embeddings_start_at_their_scales() -> None:
    torch.manual_seed(0)
    model = family("qwen3_moe").model()
    initialize(model)
    state = model.state_dict()
    assert state["model.layers.0.mlp.gate.weight"].std() == pytest.approx(160**-0.5, rel=0.1)
    assert state["model.layers.0.mlp.experts.gate_up_proj"].std() == pytest.approx(160**-0.5, rel=0.05)
    assert state["model.layers.0.mlp.experts.down_proj"].std() == pytest.approx((48 * 8) ** -0.5, rel=0.05)
    assert state["model.embed_tokens.weight"].std() == pytest.approx(0.05, rel=0.05)


def test_no_checkpoint_has_tensors_twice(tmp_path: Path) -> None:
    tensors = load_file(tiny_checkpoint("qwen3") / "model.safetensors")
    assert len({tensor.float().sum().item() for tensor in tensors.values()}) == len(tensors)
