"""Decoder layers that hold their weights only while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from inference_pio.artifact.process import return_freed_memory
from inference_pio.verify.reference.experts import stream_experts
from inference_pio.verify.reference.latents import round_latents
from inference_pio.verify.reference.rounding import RoundingCache, round_activations
from inference_pio.verify.reference.tensors import load_tensor
from inference_pio.verify.weights import ModelWeights


def stream_layer(
    layer: Any, index: int, weights: ModelWeights, done: Callable[[], None], decoder: str = "model."
) -> None:
    """Give a layer a forward that loads its weights, runs window by window and unloads them.

    With experts only the attention goes window by window: the rest takes all tokens at once, so that an expert is
    loaded once. The names of a decoder's tensors begin with `decoder`.
    """
    forward, prefix = layer.forward, f"{decoder}layers.{index}."
    steps = weights.cache_steps(index)
    round_latents(layer, prefix, weights)
    round_inputs(layer, prefix, weights)
    streamed = stream_experts(layer, prefix, weights)
    if streamed:
        layer.self_attn.forward = _by_window(layer.self_attn.forward)

    def run(hidden_WSC: torch.Tensor, **arguments: Any) -> torch.Tensor:
        if steps is not None:
            arguments["past_key_values"] = RoundingCache(steps)
        with loaded(layer, prefix, weights, streamed):
            if streamed:
                hidden_WSC = forward(hidden_WSC, **arguments)
            else:
                for window in range(len(hidden_WSC)):
                    own = _of_window(arguments, window, len(hidden_WSC))
                    hidden_WSC[window : window + 1] = forward(hidden_WSC[window : window + 1], **own)
        done()
        return hidden_WSC

    layer.forward = run


@contextmanager
def loaded(module: Any, prefix: str, weights: ModelWeights, left_out: frozenset[str] = frozenset()) -> Iterator[None]:
    """Inside, a module on the meta device has its weights but for those `left_out`; afterwards their memory is free."""
    tensors = {name: tensor for name, tensor in module.state_dict().items() if name not in left_out}
    state = {name: load_tensor(prefix + name, tensor, weights) for name, tensor in tensors.items()}
    module.load_state_dict(state, strict=False, assign=True)
    del state
    yield
    module.to("meta")
    return_freed_memory()


def round_inputs(layer: Any, prefix: str, weights: ModelWeights) -> None:
    """Let every product of a layer or block, a router's too, round its input as the artifact's kernel does."""
    for name, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        rounding = None if weight is None or weight.ndim != 2 else weights.input_rounding(f"{prefix}{name}.weight")
        if rounding is not None:
            module.register_forward_pre_hook(lambda _, args, how=rounding: (round_activations(args[0], how),))


def _by_window(attention: Callable[..., Any]) -> Callable[..., Any]:
    """Attention whose scores are in memory for one window at a time."""

    def run(hidden_states: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor, None]:
        attended_WSC = torch.empty_like(hidden_states)
        for window in range(len(hidden_states)):
            own = _of_window(arguments, window, len(hidden_states))
            attended_WSC[window : window + 1] = attention(hidden_states=hidden_states[window : window + 1], **own)[0]
        return attended_WSC, None

    return run


def _of_window(value: Any, window: int, windows: int) -> Any:
    """One window's part of an argument that a layer gets for the whole batch."""
    if isinstance(value, dict):
        return {name: _of_window(item, window, windows) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_of_window(item, window, windows) for item in value)
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[0] == windows:
        return value[window : window + 1]
    return value
