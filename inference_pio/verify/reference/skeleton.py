"""The model without weights, and the small parts that are loaded for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from inference_pio.errors import BadInputError
from inference_pio.verify.reference.tensors import check_shape, load_tensor
from inference_pio.verify.reference.tokens import first_line
from inference_pio.verify.weights import ModelWeights


def skeleton(folder: Path) -> Any:
    """The causal language model on the meta device, without weights, with real rotary tables."""
    model = _empty(folder, AutoModelForCausalLM)
    decoder: Any = getattr(model, "model", None)
    parts = [hasattr(decoder, name) for name in ("layers", "embed_tokens", "norm", "rotary_emb")]
    if not all(parts) or type(decoder.embed_tokens) is not nn.Embedding or type(model.lm_head) is not nn.Linear:
        raise BadInputError(
            f"{type(model).__name__} is not a plain decoder (model.embed_tokens, layers, norm, rotary_emb and "
            "lm_head), so it cannot be streamed: the reference does not support it yet"
        )
    decoder.rotary_emb = type(decoder.rotary_emb)(config=model.config)
    return _checked(model, "model.layers.")


def vision_skeleton(folder: Path) -> Any:
    """As `skeleton`, for a Qwen3-VL with its vision tower."""
    model = _empty(folder, AutoModelForImageTextToText)
    decoder, tower = (getattr(getattr(model, "model", None), name, None) for name in ("language_model", "visual"))
    parts = [hasattr(decoder, name) for name in ("layers", "embed_tokens", "norm", "rotary_emb")]
    parts += [hasattr(tower, name) for name in ("blocks", "merger", "deepstack_merger_list", "rotary_pos_emb")]
    if not all(parts):
        raise BadInputError(f"{type(model).__name__} is no decoder with a vision tower that can be streamed")
    decoder.rotary_emb = type(decoder.rotary_emb)(config=model.config.text_config)  # type: ignore[union-attr]
    tower.rotary_pos_emb = type(tower.rotary_pos_emb)(model.config.vision_config)  # type: ignore[union-attr]
    return _checked(model, "model.language_model.layers.")


def _empty(folder: Path, kind: Any) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise BadInputError(f"transformers cannot build the model of {folder}: {first_line(error)}") from error


def _checked(model: Any, layers: str) -> Any:
    """The model ready to run; raises BadInputError for buffers outside its layers that nobody would fill."""
    stored = {name for name in model.state_dict() if name.startswith(layers)}
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in stored]
    if empty:
        raise BadInputError(f"{type(model).__name__} has buffers that cannot be streamed: {', '.join(empty[:5])}")
    return model.eval()


def load_small(model: Any, weights: ModelWeights, apart: tuple[str, ...]) -> None:
    """Load every parameter whose name begins with none of `apart`, such as the final norm."""
    for name, parameter in list(model.named_parameters()):
        if not name.startswith(apart):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(load_tensor(name, parameter, weights), False))


def tied_tensor(model: Any, name: str, weights: ModelWeights, decoder: str) -> str:
    """The stored tensor behind the embedding or the head: the other one where the two are tied.

    The names of the decoder's tensors begin with `decoder`. Stored tensors win over the config's word, as they do in
    transformers' own loading.
    """
    table = f"{decoder}embed_tokens.weight"
    pair = {"lm_head.weight": table, table: "lm_head.weight"}
    chosen = name
    if weights.shape(name) is None and model.config.tie_word_embeddings:
        chosen = pair[name]
    check_shape(chosen, tuple(model.get_input_embeddings().weight.shape), weights)
    return chosen


def stored_embedding(name: str, weights: ModelWeights) -> Callable[[torch.Tensor], torch.Tensor]:
    """A lookup that reads only the rows that are asked for."""

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        unique, inverse = np.unique(ids.numpy(), return_inverse=True)
        rows = weights.embedding_rows(name, unique)
        return torch.from_numpy(rows[inverse.reshape(ids.shape)])

    return look_up
