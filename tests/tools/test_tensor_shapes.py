"""Published names and shapes: those of transformers' own models, at odd sizes and at the published ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from odd_configs import odd
from random_shapes import SHAPES, published_config
from tensor_shapes import tensor_shapes
from transformers.core_model_loading import revert_weight_conversion

from inference_pio.errors import BadInputError


def transformers_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that transformers would save, from a model without storage."""
    (name,) = config["architectures"]
    architecture = getattr(transformers, name)
    with torch.device("meta"):
        model = architecture(architecture.config_class(**config))
    tensors = revert_weight_conversion(model, model.state_dict())
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in tied}


def parameters(config: dict[str, Any]) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("shape", sorted(path.stem for path in SHAPES.glob("*.json")))
def test_names_and_shapes_are_those_of_transformers(shape: str, layers: int) -> None:
    config = odd(shape, layers)
    assert tensor_shapes(config) == transformers_shapes(config)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("qwen3-0.6b", {"attention_bias": True, "tie_word_embeddings": False}),
        ("llama-3.2-1b", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("mistral-7b", {"tie_word_embeddings": True, "head_dim": 20}),
        ("qwen3-coder-30b", {"decoder_sparse_step": 2, "mlp_only_layers": [3]}),
        ("qwen3-coder-30b", {"attention_bias": True, "tie_word_embeddings": True}),
        ("glm-4.7-flash", {"attention_bias": True, "tie_word_embeddings": True}),
        ("qwen3-vl-2b", {"attention_bias": True}),
    ],
)
def test_options_of_a_family_change_what_they_change_in_transformers(shape: str, changes: dict[str, object]) -> None:
    config = odd(shape, 5, **changes)
    assert tensor_shapes(config) == transformers_shapes(config)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-coder-30b", 30_532_122_624),
        ("glm-4.7-flash", 31_221_488_576),
        ("qwen3-vl-2b", 2_127_532_032),
        ("llama-3.2-1b", 1_235_814_400),
        ("qwen2.5-0.5b", 494_032_768),
        ("mistral-7b", 7_248_023_552),
    ],
)
def test_published_shapes_have_the_published_sizes(shape: str, expected: int) -> None:
    config = published_config(shape)
    assert parameters(config) == expected
    if shape == "qwen3-vl-2b":
        assert len(tensor_shapes(config)) == 625


def test_the_layer_for_multi_token_prediction_is_one_more_than_transformers_has() -> None:
    config = published_config("glm-4.7-flash")
    own = transformers_shapes(config)
    found = tensor_shapes(config)
    assert {name: found[name] for name in own} == own
    extra = {name: shape for name, shape in found.items() if name not in own}
    assert all(name.startswith("model.layers.47.") for name in extra)
    assert sum(map(math.prod, own.values())) == 29_943_393_920
    layer = {name.split(".", 3)[3]: shape for name, shape in extra.items()}
    last = {name.split(".", 3)[3]: shape for name, shape in own.items() if name.startswith("model.layers.46.")}
    assert {name: layer.pop(name) for name in last} == last  # a whole sparse layer, and this:
    assert layer == {
        "embed_tokens.weight": (154_880, 2048),
        "enorm.weight": (2048,),
        "hnorm.weight": (2048,),
        "eh_proj.weight": (2048, 4096),
        "shared_head.norm.weight": (2048,),
        "shared_head.head.weight": (154_880, 2048),
    }


def test_a_cut_checkpoint_has_no_layer_for_multi_token_prediction() -> None:
    names = tensor_shapes(published_config("glm-4.7-flash", 2))
    assert any(".1." in name for name in names) and not any("layers.2." in name for name in names)


def test_a_cut_vision_tower_keeps_three_taps() -> None:
    config = published_config("qwen3-vl-2b", 2)
    assert config["text_config"]["num_hidden_layers"] == 2
    assert config["vision_config"]["depth"] == 4
    assert "model.visual.deepstack_merger_list.2.norm.weight" in tensor_shapes(config)
    assert published_config("qwen3-vl-2b", 26)["vision_config"]["deepstack_visual_indexes"] == [5, 11, 17]


@pytest.mark.parametrize("model_type", ["qwen4", None, "_grouped", "../qwen3"])
def test_other_families_are_refused(model_type: object) -> None:
    with pytest.raises(BadInputError, match="use one of glm4_moe_lite, llama, mistral, qwen2, qwen3, qwen3_moe"):
        tensor_shapes({"model_type": model_type})
