"""One file per architecture, named like the checkpoint's `model_type`; the folder is the registry.

An architecture module has `read_config(ConfigReader) -> DecoderSpec` and `build(spec, WeightSource) -> ir.Model`, and
`build_vision(spec, WeightSource) -> ir.Model` where its decoder has a vision tower.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import onnx_ir as ir

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.config import ConfigReader, decoder_config
from inference_pio.errors import BadInputError
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec


def supported() -> list[str]:
    """The `model_type` values that can be exported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_architecture(model_type: object) -> ModuleType:
    """The module for `model_type`; raises BadInputError that names the supported ones."""
    if model_type not in supported():
        raise BadInputError(
            f"config.json: model_type {model_type!r} is not supported; supported are {', '.join(supported())}"
        )
    return importlib.import_module(f"{__name__}.{model_type}")


def read_decoder(
    checkpoint: Checkpoint, ignored_keys: Sequence[str], layers: int | None
) -> tuple[ModuleType, DecoderSpec]:
    """The architecture of a checkpoint and the decoder its config.json describes, cut after `layers` layers if asked.

    Raises BadInputError for a config that the architecture cannot express; `ignored_keys` are the caller's word that
    these entries do not matter.
    """
    architecture, spec = read_config(checkpoint.config, ignored_keys)
    if layers is not None:
        if not 1 <= layers <= spec.layers:
            raise BadInputError(f"--layers {layers} is outside 1 to {spec.layers}, the layers of the model")
        spec = spec.truncated(layers)
    _check_experts(checkpoint, spec)
    return architecture, spec


def read_config(values: dict[str, Any], ignored_keys: Sequence[str] = ()) -> tuple[ModuleType, DecoderSpec]:
    """The architecture that a config.json names and the decoder it describes; raises BadInputError."""
    config = ConfigReader(values, ignored=frozenset(ignored_keys))
    architecture = find_architecture(config.need_str("model_type"))
    spec: DecoderSpec = architecture.read_config(config)
    config.finish()
    return architecture, spec


def _check_experts(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    """Refuse early what would take millions of names to refuse; a few missing tensors are named later."""
    wanted = sum(3 * experts.count for layer in range(spec.layers) if (experts := spec.experts(layer)) is not None)
    if wanted > len(checkpoint.tensors):
        raise BadInputError(
            f"config.json asks for {wanted} tensors of experts, but the checkpoint has {len(checkpoint.tensors)} in "
            "all: it is incomplete or of another architecture than its config.json says"
        )


def declare_cut(source: WeightSource, checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    """State that the tensors of layers behind those of `spec` are left out."""
    for layer in range(spec.layers, decoder_config(checkpoint.config)["num_hidden_layers"]):
        source.declare_unused(f"{spec.prefix}.layers.{layer}.*", "cut off by --layers")


def build_graphs(architecture: ModuleType, spec: DecoderSpec, source: WeightSource) -> dict[str, ir.Model]:
    """The canonical graphs by role: `decoder`, and `vision` where there is a vision tower.

    Raises BadInputError unless they use every tensor of the checkpoint exactly once.
    """
    vision = {} if spec.vision is None else {"vision": architecture.build_vision(spec, source)}
    return {"decoder": architecture.build(spec, source), **vision}
