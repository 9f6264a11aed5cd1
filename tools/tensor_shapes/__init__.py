"""Published names and shapes of all tensors of a checkpoint, from its config.json; one file per `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from inference_pio.errors import BadInputError

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: Config) -> Shapes:
    """Name and shape of every tensor, in file order; raises BadInputError for a family or size that is unknown."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if config.get("model_type") not in known:
        raise BadInputError(f"model_type is {config.get('model_type')!r}: use one of {', '.join(known)}")
    shapes: Shapes = import_module(f"tensor_shapes.{config['model_type']}").shapes(config)
    return shapes


def positive(config: Config, key: str) -> int:
    """The positive whole number that ``config`` has under ``key``."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInputError(f"{key} of the config is {value!r}: give a positive whole number")
    return value


def linear(name: str, rows: int, columns: int, bias: bool = False) -> Shapes:
    """A linear layer [rows, columns], with its bias where it has one."""
    weight: Shapes = {f"{name}.weight": (rows, columns)}
    return {**weight, f"{name}.bias": (rows,)} if bias else weight


def swiglu(prefix: str, hidden: int, width: int, bias: bool = False) -> Shapes:
    """Gate, up and down projection."""
    return {
        **linear(f"{prefix}gate_proj", width, hidden, bias),
        **linear(f"{prefix}up_proj", width, hidden, bias),
        **linear(f"{prefix}down_proj", hidden, width, bias),
    }


def experts(prefix: str, count: int, hidden: int, width: int) -> Shapes:
    """The router, and gate, up and down projection of every expert."""
    shapes = linear(f"{prefix}gate", count, hidden)
    for expert in range(count):
        shapes |= swiglu(f"{prefix}experts.{expert}.", hidden, width)
    return shapes


def decoder(config: Config, layers: Shapes, prefix: str = "model.") -> Shapes:
    """Embedding, the given layers, final norm and, unless it is tied, the head."""
    hidden = positive(config, "hidden_size")
    embedding = (positive(config, "vocab_size"), hidden)
    shapes = {f"{prefix}embed_tokens.weight": embedding, **layers, f"{prefix}norm.weight": (hidden,)}
    return shapes if config.get("tie_word_embeddings", False) else {**shapes, "lm_head.weight": embedding}
