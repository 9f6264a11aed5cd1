"""Files of the checkpoint that an artifact has too: tokenizer, preprocessor, licence and configuration."""

from __future__ import annotations

import copy
import re

from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.writer import ArtifactWriter
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.config import decoder_config
from inference_pio.checkpoint.files import read_small
from inference_pio.export.genai_config import genai_config
from inference_pio.export.graphs import Graphs
from inference_pio.export.plan import ExportPlan

MAX_FILE_BYTES = 256 << 20
"""Above the size of any tokenizer or licence."""

UNUSUAL = re.compile(r"[^A-Za-z0-9_.-]")
"""What a file's name in an artifact may not hold."""

PER_LAYER_KEYS = {"layer_types", "mlp_layer_types"}
"""Lists in config.json with one entry per layer."""


def copy_checkpoint_files(source: Checkpoint, plan: ExportPlan, graphs: Graphs, writer: ArtifactWriter) -> None:
    """Tokenizer, preprocessor, licence and configuration files, and `genai_config.json` where it applies."""
    for file in (*source.tokenizer_files, *(source.preprocessor_files if plan.spec.vision else ())):
        writer.add(file.name, read_small(file, MAX_FILE_BYTES))
    for file in source.license_files:
        writer.add(UNUSUAL.sub("_", file.name), read_small(file, MAX_FILE_BYTES))
    config = copy.deepcopy(source.config)
    decoder_part = decoder_config(config)
    if plan.spec.layers != decoder_part["num_hidden_layers"]:
        decoder_part["num_hidden_layers"] = plan.spec.layers
        for key in PER_LAYER_KEYS & decoder_part.keys():
            decoder_part[key] = decoder_part[key] and decoder_part[key][: plan.spec.layers]
    writer.add("config.json", json_bytes(config))
    generation = source.generation_config or {}
    writer.add("generation_config.json", json_bytes(generation or _generation_from(config)))
    if plan.calibration is not None:
        writer.add("calibration.json", json_bytes(plan.calibration.facts))
    decoder = next((part.model for part in graphs.parts if part.role == "decoder"), None)
    if decoder is None or plan.int8_cache or not plan.target.genai:
        return
    inputs = [str(value.name) for value in decoder.graph.inputs]
    genai = genai_config(plan.spec, plan.context_length, config, generation, inputs)
    if genai is not None:
        writer.add("genai_config.json", json_bytes(genai))


def _generation_from(config: dict[str, object]) -> dict[str, object]:
    """A checkpoint without generation_config.json keeps its special ids in config.json."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: value for key in keys if (value := config.get(key, decoder_config(config).get(key))) is not None}
