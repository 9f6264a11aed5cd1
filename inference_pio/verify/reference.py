"""The original model: transformers itself in float32, streamed. The only file that imports torch and transformers.

The model's own forward runs, once, over all windows. Only three kinds of module get another forward: the embedding
looks its rows up in the file, a decoder layer loads its weights, runs window by window and forgets them, and the head
works through its rows in chunks. Masks, rotary tables, norms and the layers' arithmetic are transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from inference_pio.artifact.process import return_freed_memory
from inference_pio.errors import BadInputError
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import CacheSteps, InputRounding, ModelWeights

Progress = Callable[[int, int], None]
"""(work done, all work) in any unit."""

HEAD_BYTES = 64 << 20
"""Float32 bytes of one chunk of the head's rows."""
HEAD_POSITIONS = 1024
"""Positions that one chunk of the head's rows meets at a time."""


def write_logits(
    folder: Path,
    weights: ModelWeights,
    windows: Sequence[np.ndarray],
    sink: LogitsFile,
    layers: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the logits of every token of every window to `sink`, [positions, vocabulary] in the windows' order.

    `folder` holds `config.json`; `windows` are int64 token ids of one length, the last perhaps shorter; `layers` cuts
    the model to its first layers. Memory: the weights of one layer, the hidden states of all positions and one chunk
    of the head. Raises BadInputError when
    transformers does not know the model, it is no plain decoder, or a weight is missing or of the wrong shape.
    """
    report = progress or (lambda done, total: None)
    with _threads(threads), torch.inference_mode():
        model = _skeleton(folder)
        model.model.layers = model.model.layers[:layers]
        work = len(model.model.layers) + 1
        _load_small(model, weights)
        model.model.embed_tokens.forward = _embedding(_tied(model, "model.embed_tokens.weight", weights), weights)
        for index, layer in enumerate(model.model.layers):
            layer.forward = _layer(layer, index, weights, partial(report, index + 1, work))
        lengths = [len(window) for window in windows]
        head = _Head(_tied(model, "lm_head.weight", weights), model, weights, lengths, sink)
        model.lm_head.forward = head.run
        output = model(input_ids=_batch(windows), use_cache=False)
        if output.logits is not head.placeholder:
            raise BadInputError(
                f"{model.config.model_type} computes on the logits after lm_head, which the streamed reference "
                "does not do: verify this model on a machine that holds it whole"
            )
        report(work, work)


def tokenize(folder: Path, text: str) -> list[int]:
    """Token ids of `text` by the checkpoint's own tokenizer in transformers, special tokens included."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"transformers cannot load the tokenizer in {folder}: {_first_line(error)}") from error
    return [int(token) for token in tokenizer(text, verbose=False)["input_ids"]]


def versions() -> dict[str, str]:
    """Versions of what computes the reference."""
    import transformers

    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def _skeleton(folder: Path) -> Any:
    """The causal language model on the meta device, without weights, with real rotary tables."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise BadInputError(f"transformers cannot build the model of {folder}: {_first_line(error)}") from error
    decoder: Any = getattr(model, "model", None)
    parts = [hasattr(decoder, name) for name in ("layers", "embed_tokens", "norm", "rotary_emb")]
    if not all(parts) or type(decoder.embed_tokens) is not nn.Embedding or type(model.lm_head) is not nn.Linear:
        raise BadInputError(
            f"{type(model).__name__} is not a plain decoder (model.embed_tokens, layers, norm, rotary_emb and "
            "lm_head), so it cannot be streamed: the reference does not support it yet"
        )
    decoder.rotary_emb = type(decoder.rotary_emb)(config=model.config)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty:
        raise BadInputError(f"{type(model).__name__} has buffers that cannot be streamed: {', '.join(empty[:5])}")
    return model.eval()


def _load_small(model: Any, weights: ModelWeights) -> None:
    """Load every parameter outside the layers, the embedding and the head (that is, the final norm)."""
    apart = ("model.layers.", "model.embed_tokens.", "lm_head.weight")
    for name, parameter in list(model.named_parameters()):
        if not name.startswith(apart):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(_tensor(name, parameter, weights), False))


def _tied(model: Any, name: str, weights: ModelWeights) -> str:
    """The stored tensor behind the embedding or the head: the other one where the two are tied.

    Stored tensors win over the config's word, as they do in transformers' own loading.
    """
    pair = {"lm_head.weight": "model.embed_tokens.weight", "model.embed_tokens.weight": "lm_head.weight"}
    chosen = name
    if weights.shape(name) is None and model.config.tie_word_embeddings:
        chosen = pair[name]
    _check_shape(chosen, tuple(model.model.embed_tokens.weight.shape), weights)
    return chosen


def _embedding(name: str, weights: ModelWeights) -> Callable[[torch.Tensor], torch.Tensor]:
    def look_up(ids: torch.Tensor) -> torch.Tensor:
        unique, inverse = np.unique(ids.numpy(), return_inverse=True)
        rows = weights.embedding_rows(name, unique)
        return torch.from_numpy(rows[inverse.reshape(ids.shape)])

    return look_up


def _layer(layer: Any, index: int, weights: ModelWeights, done: Callable[[], None]) -> Callable[..., torch.Tensor]:
    """A forward that loads the layer, runs it on one window after the other in place, and unloads it."""
    forward, prefix = layer.forward, f"model.layers.{index}."
    steps = weights.cache_steps(index)
    for name, module in layer.named_modules():
        rounding = weights.input_rounding(f"{prefix}{name}.weight") if isinstance(module, nn.Linear) else None
        if rounding is not None:
            module.register_forward_pre_hook(lambda _, args, how=rounding: (round_activations(args[0], how),))

    def run(hidden_WSC: torch.Tensor, **arguments: Any) -> torch.Tensor:
        state = {name: _tensor(prefix + name, p, weights) for name, p in layer.named_parameters()}
        layer.load_state_dict(state, assign=True)
        if steps is not None:
            arguments["past_key_values"] = _RoundingCache(steps)
        for window in range(len(hidden_WSC)):
            own = {name: _of_window(value, window, len(hidden_WSC)) for name, value in arguments.items()}
            hidden_WSC[window : window + 1] = forward(hidden_WSC[window : window + 1], **own)
        del state
        layer.to("meta")
        return_freed_memory()
        done()
        return hidden_WSC

    return run


class _RoundingCache:
    """What a layer takes for its cache: holds nothing, and gives keys and values back as an int8 cache would."""

    def __init__(self, steps: CacheSteps) -> None:
        self._steps = [torch.from_numpy(array)[None, :, None, :] for array in (steps.key, steps.value)]

    def update(
        self, key_BGSD: torch.Tensor, value_BGSD: torch.Tensor, layer_idx: int, cache_kwargs: object = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = (
            torch.clamp(torch.round(x * (1 / step)), -128, 127) * step
            for x, step in zip((key_BGSD, value_BGSD), self._steps, strict=True)
        )
        return key, value


def _of_window(value: Any, window: int, windows: int) -> Any:
    """One window's part of an argument that a layer gets for the whole batch."""
    if isinstance(value, tuple):
        return tuple(_of_window(item, window, windows) for item in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[0] == windows:
        return value[window : window + 1]
    return value


class _Head:
    """The last linear layer, a chunk of its rows at a time, straight into the sink."""

    def __init__(self, name: str, model: Any, weights: ModelWeights, lengths: list[int], sink: LogitsFile) -> None:
        self._name, self._weights, self._lengths, self._sink = name, weights, lengths, sink
        self._bias = None
        if model.lm_head.bias is not None:
            self._bias = model.lm_head.bias
        self.placeholder = torch.zeros(())

    def run(self, hidden_WSC: torch.Tensor) -> torch.Tensor:
        hidden_PC = torch.cat([row[:length] for row, length in zip(hidden_WSC, self._lengths, strict=True)])
        rounding = self._weights.input_rounding(self._name)
        if rounding is not None:
            hidden_PC = round_activations(hidden_PC, rounding)
        step = max(1, HEAD_BYTES // (4 * hidden_PC.shape[1]))
        for start in range(0, self._sink.vocabulary, step):
            stop = min(start + step, self._sink.vocabulary)
            rows_NC = torch.from_numpy(self._weights.rows(self._name, start, stop))
            bias = None if self._bias is None else self._bias[start:stop]
            for first in range(0, len(hidden_PC), HEAD_POSITIONS):
                part = nn.functional.linear(hidden_PC[first : first + HEAD_POSITIONS], rows_NC, bias)
                self._sink.write(first, start, part.numpy())
        return self.placeholder


def round_activations(x: torch.Tensor, how: InputRounding) -> torch.Tensor:
    """`x` [..., K] rounded as a kernel with int8 activations does; see `InputRounding`."""
    exact = list(how.exact)
    inner = x
    if exact:
        inner = x.clone()
        inner[..., exact] = 0
    if how.step is not None:
        rounded = _round_fixed(inner, how.step)
    else:
        rounded = _round_rows(inner) if how.block is None else _round_blocks(inner, how.block)
    if exact:
        rounded[..., exact] = x[..., exact]
    return rounded


def _round_fixed(x: torch.Tensor, step: float) -> torch.Tensor:
    return torch.clamp(torch.round(x / step), -128, 127) * step


def _round_rows(x: torch.Tensor) -> torch.Tensor:
    """Two divisions, as the graph makes them: a product with 127 / largest would round near ties to the other side."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    levels = torch.round(x / torch.where(largest > 0, largest, 1) / float(np.float32(1 / 127)))
    return levels * (largest / 127.0)


def _round_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    columns = x.shape[-1]
    padded = nn.functional.pad(x, (0, -columns % block))
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, torch.zeros_like(largest))
    rounded = torch.round(blocks * inverse) * (largest / 127.0)
    return rounded.reshape(padded.shape)[..., :columns]


def _tensor(name: str, parameter: torch.Tensor, weights: ModelWeights) -> torch.Tensor:
    _check_shape(name, tuple(parameter.shape), weights)
    return torch.from_numpy(weights.rows(name, 0, parameter.shape[0]))


def _check_shape(name: str, expected: tuple[int, ...], weights: ModelWeights) -> None:
    shape = weights.shape(name)
    if shape != expected:
        stored = "is missing" if shape is None else f"has shape {list(shape)}"
        raise BadInputError(f"tensor '{name}' {stored}; config.json asks for {list(expected)}")


def _batch(windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Windows as one int64 batch; a shorter one is filled at its end, where no earlier token can see it."""
    ids = np.zeros((len(windows), max(len(window) for window in windows)), dtype=np.int64)
    for row, window in zip(ids, windows, strict=True):
        row[: len(window)] = window
    return torch.from_numpy(ids)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads for a while."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
