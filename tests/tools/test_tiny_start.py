"""Models that start from the bundled Qwen3 compute what its layers compute."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import Family, family
from tiny_measure import load
from tiny_start import EXPERT_SCALE, QWEN3, start_from_qwen3
from tiny_training import initialize

from inference_pio.tiny import tiny_checkpoint


def started(chosen: Family) -> torch.nn.Module:
    torch.manual_seed(0)
    model = chosen.model().eval()
    initialize(model)
    start_from_qwen3(model, chosen.start)
    return model


def pruned(layers: tuple[int, ...]) -> torch.nn.Module:
    """The bundled Qwen3 with these layers alone."""
    model = load(tiny_checkpoint("qwen3"))
    model.model.layers = torch.nn.ModuleList([model.model.layers[number] for number in layers])
    model.config.num_hidden_layers = len(layers)
    return model


def test_a_vision_model_starts_as_the_language_model_that_it_is_made_of() -> None:
    chosen = family("qwen3_vl")
    ids = torch.randint(2048, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = started(chosen)(ids).logits[..., :2048]
        expected = pruned(chosen.start)(ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-3)


def test_experts_together_are_the_dense_layer() -> None:
    chosen = family("qwen3_moe")
    model, dense = started(chosen), pruned(chosen.start)
    hidden = torch.randn(7, 160, generator=torch.Generator().manual_seed(0))
    for layer, original in zip(model.model.layers, dense.model.layers, strict=True):
        everyone = torch.arange(8).expand(7, 8)
        with torch.no_grad():
            found = layer.mlp.experts(hidden, everyone, torch.full((7, 8), 1 / EXPERT_SCALE))
            assert torch.allclose(found, original.mlp(hidden), atol=1e-3)
    state = model.state_dict()
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_vl"])
def test_what_qwen3_lacks_stays_random(name: str) -> None:
    chosen = family(name)
    torch.manual_seed(0)
    model = chosen.model()
    initialize(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start_from_qwen3(model, chosen.start)
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert same and all("mlp.gate.weight" in key or "model.visual." in key for key in same)
    rows = model.get_input_embeddings().weight[2048:]
    assert torch.equal(rows, before[next(key for key in before if "embed_tokens" in key)][2048:])


def test_the_layers_that_are_started_from_exist() -> None:
    layers = {int(name.split(".")[2]) for name in load_file(QWEN3) if name.startswith("model.layers.")}
    for name in ("qwen3_moe", "qwen3_vl"):
        chosen = family(name)
        assert set(chosen.start) < layers
        text = chosen.config.get("text_config", chosen.config)
        assert len(chosen.start) == text["num_hidden_layers"]
