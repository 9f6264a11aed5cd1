"""Experts that are loaded one at a time.

transformers holds the experts of a layer in two tensors, `gate_up_proj` [E, 2 F, C] and `down_proj` [E, C, F], which at
30 billion parameters are 2.4 GB a layer. Here each expert is read when its tokens are due, under its published name.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from inference_pio.verify.reference.rounding import round_activations
from inference_pio.verify.reference.tensors import check_shape
from inference_pio.verify.weights import ModelWeights

FUSED = frozenset({"gate_up_proj", "down_proj"})


def stream_experts(layer: nn.Module, prefix: str, weights: ModelWeights) -> frozenset[str]:
    """Give the experts of a layer such a forward; the names of the parameters that are never loaded.

    Raises BadInputError when an expert's tensor is missing or has another shape.
    """
    streamed: set[str] = set()
    for name, module in layer.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own.keys() == FUSED and all(parameter.ndim == 3 for parameter in own.values()):
            _check(f"{prefix}{name}", own, weights)
            module.forward = partial(_run, module, f"{prefix}{name}", weights)
            streamed |= {f"{name}.{fused}" for fused in FUSED}
    return frozenset(streamed)


def _check(name: str, fused: dict[str, nn.Parameter], weights: ModelWeights) -> None:
    experts, hidden, inner = fused["down_proj"].shape
    for expert in range(experts):
        for kind, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            check_shape(f"{name}.{expert}.{kind}_proj.weight", shape, weights)


def _run(
    experts: Any, name: str, weights: ModelWeights, x_TC: torch.Tensor, index_TK: torch.Tensor, share_TK: torch.Tensor
) -> torch.Tensor:
    """What `experts` gives for tokens, their experts and the shares of these."""
    y_TC = torch.zeros_like(x_TC)
    for expert in index_TK.unique().tolist():
        token, place = torch.where(index_TK == expert)
        gate_NF = _product(f"{name}.{expert}.gate_proj.weight", x_TC[token], weights)
        up_NF = _product(f"{name}.{expert}.up_proj.weight", x_TC[token], weights)
        out_NC = _product(f"{name}.{expert}.down_proj.weight", experts.act_fn(gate_NF) * up_NF, weights)
        y_TC.index_add_(0, token, out_NC * share_TK[token, place, None])
    return y_TC


def _product(name: str, x_NK: torch.Tensor, weights: ModelWeights) -> torch.Tensor:
    shape, rounding = weights.shape(name), weights.input_rounding(name)
    assert shape is not None  # checked before
    inner = x_NK if rounding is None else round_activations(x_NK, rounding)
    return nn.functional.linear(inner, torch.from_numpy(weights.rows(name, 0, shape[0])))
