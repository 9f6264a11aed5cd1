"""The streamed reference is transformers: same logits as the whole model, for every shape, and clear refusals."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.verify import reference
from inference_pio.verify.reference import head
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import CheckpointWeights, InputRounding

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import ALL_SHAPES, original, write_shape

LENGTHS = (90, 90, 33)
TOLERANCE = 1e-5
"""Relative to the largest logit: float32 sums in another order."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many threads only wait for each other on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_windows(vocabulary: int, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, vocabulary, length) for length in lengths]


def streamed(
    path: Path,
    windows: list[np.ndarray],
    weights: CheckpointWeights | None = None,
    layers: int | None = None,
    threads: int | None = 1,
) -> np.ndarray:
    positions = sum(len(window) for window in windows)
    vocabulary = json.loads((path / "config.json").read_text())["vocab_size"]
    with Checkpoint.open(path) as checkpoint, LogitsFile(path, positions, vocabulary) as sink:
        reference.write_logits(path, weights or CheckpointWeights(checkpoint), windows, sink, layers, threads)
        return sink.read(0, positions)


def whole(model: torch.nn.Module, windows: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(torch.tensor(window)[None]).logits[0].numpy() for window in windows])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.abs(theirs).max() > 1


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


class SpyingWeights(CheckpointWeights):
    """Counts the rows that are read, and lets every kernel round its input."""

    def __init__(self, checkpoint: Checkpoint, block: int | None) -> None:
        super().__init__(checkpoint)
        self.block = block
        self.read: dict[str, int] = {}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        self.read[name] = self.read.get(name, 0) + stop - start
        return super().rows(name, start, stop)

    def input_rounding(self, name: str) -> InputRounding | None:
        return None if self.block is None else InputRounding(self.block)


@pytest.mark.parametrize("name", ["untied", "moe_all_experts"])
def test_every_tensor_is_read_once_whatever_the_number_of_windows(name: str, tmp_path: Path) -> None:
    path = write_shape(name, tmp_path / "checkpoint")
    with Checkpoint.open(path) as checkpoint:
        spy = SpyingWeights(checkpoint, None)
        streamed(path, make_windows(2048, (3,) * 5), spy)
        expected = {name: info.shape[0] for name, info in checkpoint.tensors.items()}
    del expected["model.embed_tokens.weight"]
    assert spy.read == expected


class OneLayerAtATime(SpyingWeights):
    """Looks, whenever rows are read, at how many decoder layers hold weights."""

    most = 0

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        layers = [found for found in gc.get_objects() if type(found).__name__ == "Qwen3DecoderLayer"]
        loaded = [layer for layer in layers if any(not p.is_meta for p in layer.parameters())]
        self.most = max(self.most, len(loaded))
        return super().rows(name, start, stop)


def test_a_layer_gives_its_memory_back_before_the_next_is_loaded(tmp_path: Path) -> None:
    path = write_shape("plain", tmp_path / "checkpoint")
    gc.collect()
    with Checkpoint.open(path) as checkpoint:
        watch = OneLayerAtATime(checkpoint, None)
        streamed(path, make_windows(2048, (3,)), watch)
    assert watch.most == 0  # a layer counts as loaded only after all of its tensors were read


class OneExpertAtATime(SpyingWeights):
    """Looks, whenever an expert's rows are read, at how many arrays of its size were handed out and are alive."""

    most = 0

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, None)
        self.alive: list[weakref.ref[np.ndarray]] = []

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        rows = super().rows(name, start, stop)
        if ".experts." in name:
            self.alive = [found for found in self.alive if found() is not None] + [weakref.ref(rows)]
            self.most = max(self.most, len(self.alive))
        return rows


def test_an_expert_gives_its_memory_back_before_the_next_is_loaded(tmp_path: Path) -> None:
    path = write_shape("moe", tmp_path / "checkpoint")
    with Checkpoint.open(path) as checkpoint:
        watch = OneExpertAtATime(checkpoint)
        streamed(path, make_windows(2048, (30,)), watch)
    assert len([name for name in watch.read if ".experts." in name]) > 30
    assert watch.most <= 2


@pytest.mark.parametrize("block", [16, 32, 64])
def test_rounded_activations_reach_every_linear_layer(block: int, tmp_path: Path) -> None:
    path = write_shape("bias", tmp_path / "checkpoint")
    windows = make_windows(2048, (20, 20))
    model = original(path)

    def round_input(_: torch.nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (torch.from_numpy(rounded(arguments[0].numpy(), block)),)

    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    hooks = [m.register_forward_pre_hook(round_input) for m in linears]
    assert len(hooks) == 3 * 7 + 1
    expected = whole(model, windows)
    with Checkpoint.open(path) as checkpoint:
        found = streamed(path, windows, SpyingWeights(checkpoint, block))
    exact = whole(original(path), windows)
    # A value halfway between two steps may be rounded to either side, and moves what follows.
    assert np.abs(found - expected).mean() < 0.1 * np.abs(exact - expected).mean()


def test_rounded_activations_reach_every_product_of_the_experts(tmp_path: Path) -> None:
    """In one layer: behind it values near the edge between two steps fall to either side, and pull others along."""
    path = write_shape("moe", tmp_path / "checkpoint")
    windows = make_windows(2048, (20, 20))
    model, untouched = original(path), original(path)
    model.model.layers, untouched.model.layers = model.model.layers[:1], untouched.model.layers[:1]

    def round_input(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.from_numpy(rounded(arguments[0].numpy(), 16)), *arguments[1:])

    def experts(module: torch.nn.Module, x: torch.Tensor, index: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        inner = torch.from_numpy(rounded(x.numpy(), 16))
        for token in range(len(x)):
            for place, expert in enumerate(index[token].tolist()):
                gate, up = (module.gate_up_proj[expert] @ inner[token]).chunk(2)
                open_F = torch.nn.functional.silu(gate) * up
                out = module.down_proj[expert] @ torch.from_numpy(rounded(open_F.numpy()[None], 16))[0]
                total[token] += share[token, place] * out
        return total

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or name.endswith("mlp.gate"):
            module.register_forward_pre_hook(round_input)
        if name.endswith("mlp.experts"):
            module.forward = partial(experts, module)
    expected = whole(model, windows)
    with Checkpoint.open(path) as checkpoint:
        found = streamed(path, windows, SpyingWeights(checkpoint, 16), layers=1)
    exact = whole(untouched, windows)
    assert np.abs(found - expected).mean() < 0.1 * np.abs(exact - expected).mean()


def rounded(x: np.ndarray, block: int) -> np.ndarray:
    """Rounding to int8 per row and block, one block at a time."""
    result = x.copy()
    for start in range(0, x.shape[-1], block):
        part = x[..., start : start + block]
        scale = np.abs(part).max(axis=-1, keepdims=True) / np.float32(127)
        steps = np.divide(part, scale, out=np.zeros_like(part), where=scale != 0)
        result[..., start : start + block] = np.rint(steps) * scale
    return result


@pytest.mark.parametrize(("columns", "block"), [(64, 32), (40, 32), (7, 16), (16, 16)])
def test_rounding_by_block(columns: int, block: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, columns)).astype(np.float32)
    x[0, 0] = 0
    x[0, 1] *= 1e-30
    found = reference.round_activations(torch.from_numpy(x), InputRounding(block)).numpy()
    assert found.shape == x.shape
    assert np.isfinite(found).all()
    assert np.allclose(found, rounded(x, block), rtol=1e-6, atol=0)
    assert (found[0, 0] == 0).all()


def test_the_number_of_threads_is_put_back(tmp_path: Path) -> None:
    path = write_shape("one_layer", tmp_path / "checkpoint")
    before = torch.get_num_threads()
    streamed(path, make_windows(2048, (3,)), threads=before + 1)
    assert torch.get_num_threads() == before


def test_tokens_of_the_checkpoints_tokenizer(tiny: Path) -> None:
    text = "def f(x):\n\treturn 'né ☃'  # \U0001f600\n"
    from transformers import AutoTokenizer

    assert reference.tokenize(tiny, text) == AutoTokenizer.from_pretrained(tiny)(text)["input_ids"]


def change_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


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
