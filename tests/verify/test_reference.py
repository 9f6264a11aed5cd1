"""The streamed reference is transformers: same logits as the whole model, for every shape, and clear refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from inference_pio.errors import BadInputError
from inference_pio.verify import reference
from inference_pio.verify.reference import head

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference_cases import assert_same, change_config, make_windows, streamed, whole
from shapes import ALL_SHAPES, original, write_shape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_every_shape_equals_the_whole_model(name: str, tmp_path: Path) -> None:
    path = write_shape(name, tmp_path / "checkpoint")
    windows = make_windows(2048)
    assert_same(streamed(path, windows), whole(original(path), windows))


GLM: dict[str, object] = {
    "model_type": "glm4_moe_lite",
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 24,
    "routed_scaling_factor": 1.8,
    "norm_topk_prob": True,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


def write_glm(out: Path, **changes: object) -> Path:
    """Latent attention, and a router whose bias selects other experts than its scores would."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**GLM, **changes}))
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensor.normal_(1, 0.2)
        else:
            tensor.normal_(0, 0.5 if "bias" in name else 0.1)
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize("changes", [{}, {"norm_topk_prob": False, "num_experts_per_tok": 1, "n_shared_experts": 1}])
def test_latent_attention_and_a_biased_router(changes: dict[str, object], tmp_path: Path) -> None:
    path = write_glm(tmp_path / "checkpoint", **changes)
    windows = make_windows(2048)
    model = original(path)
    assert_same(streamed(path, windows), whole(model, windows))
    for layer in model.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias.zero_()
    without = whole(model, windows)
    assert np.abs(streamed(path, windows) - without).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_shards(dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_shape("bias", tmp_path / "checkpoint", dtype, shard_size="300KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    windows = make_windows(2048, (12, 12, 12))
    assert_same(streamed(path, windows), whole(original(path), windows))


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (5,), (4, 1)])
def test_windows_of_any_number_and_length(lengths: tuple[int, ...], tmp_path: Path) -> None:
    path = write_shape("window_one_kv_head", tmp_path / "checkpoint")
    windows = make_windows(2048, lengths)
    assert_same(streamed(path, windows), whole(original(path), windows))


def test_as_many_windows_as_other_axes_have_entries(tmp_path: Path) -> None:
    """Arguments of a layer are told apart from per-window ones by their first axis."""
    path = write_shape("window_one_kv_head", tmp_path / "checkpoint")
    windows = make_windows(2048, (4,) * 4)
    assert_same(streamed(path, windows), whole(original(path), windows))


def test_small_chunks_of_the_head_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shape("odd_sizes", tmp_path / "checkpoint")
    windows = make_windows(2048, (20, 7))
    at_once = streamed(path, windows)
    monkeypatch.setattr(head, "HEAD_BYTES", 4 * 40 * 100)
    monkeypatch.setattr(head, "HEAD_POSITIONS", 11)
    assert_same(streamed(path, windows), at_once)


def test_a_model_cut_short(tmp_path: Path) -> None:
    path = write_shape("window_one_kv_head", tmp_path / "checkpoint")
    windows = make_windows(2048)
    model = original(path)
    model.model.layers = model.model.layers[:2]
    assert_same(streamed(path, windows, layers=2), whole(model, windows))


def test_a_head_stored_beside_a_tied_embedding_counts_as_transformers_counts_it(tmp_path: Path) -> None:
    path = write_shape("plain", tmp_path / "checkpoint")
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"])
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    windows = make_windows(2048, (10,))
    assert_same(streamed(path, windows), whole(original(path), windows))


def test_the_number_of_threads_is_put_back(tmp_path: Path) -> None:
    path = write_shape("one_layer", tmp_path / "checkpoint")
    before = torch.get_num_threads()
    streamed(path, make_windows(2048, (3,)), threads=before + 1)
    assert torch.get_num_threads() == before


def test_tokens_of_the_checkpoints_tokenizer(tiny: Path) -> None:
    text = "def f(x):\n\treturn 'né ☃'  # \U0001f600\n"
    from transformers import AutoTokenizer

    assert reference.tokenize(tiny, text) == AutoTokenizer.from_pretrained(tiny)(text)["input_ids"]


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    path = write_shape("one_layer", tmp_path / "checkpoint")
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    kept = tensors.pop(name)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=f"{name}' is missing"):
        streamed(path, make_windows(2048, (3,)))
    save_file({**tensors, name: kept[:-1].clone()}, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"up_proj.*has shape \[159, 96\]"):
        streamed(path, make_windows(2048, (3,)))


@pytest.mark.parametrize("kind", ["gate_proj", "down_proj"])
def test_a_missing_expert_is_named_though_no_token_wants_it(kind: str, tmp_path: Path) -> None:
    path = write_shape("moe", tmp_path / "checkpoint")
    tensors = load_file(path / "model.safetensors")
    name = f"model.layers.2.mlp.experts.5.{kind}.weight"
    del tensors[name]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=f"{name}' is missing"):
        streamed(path, make_windows(2048, (1,)))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "no_such_model"},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]},
        {"hidden_size": "large"},
        {"rope_parameters": {"rope_type": "spiral"}},
        {"hidden_act": "no_such_function"},
    ],
    ids=lambda changes: next(iter(changes.values())) if isinstance(next(iter(changes.values())), str) else "rope",
)
def test_models_that_cannot_be_streamed_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    path = write_shape("one_layer", tmp_path / "checkpoint")
    change_config(path, **changes)
    with pytest.raises(BadInputError):
        streamed(path, make_windows(2048, (3,)))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    path = write_shape("one_layer", tmp_path / "checkpoint")
    trace = tmp_path / "trace"
    for file in ("configuration_evil.py", "modeling_evil.py"):
        (path / file).write_text(f"open({str(trace)!r}, 'w').write('ran')\n")
    automatic = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    change_config(path, auto_map=automatic)
    streamed(path, make_windows(2048, (3,)))
    change_config(path, model_type="evil")
    with pytest.raises(BadInputError):
        streamed(path, make_windows(2048, (3,)))
    assert not trace.exists()
