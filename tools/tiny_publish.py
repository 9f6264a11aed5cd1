"""Writes a trained tiny model as a checkpoint in the layout of published ones."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_families import END_OF_TEXT, Family
from tiny_tokenizer import write_json, write_tokenizer
from tokenizers import Tokenizer

EXPERTS = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")
FLOAT32 = "e_score_correction_bias"  # kept in full


def published(family: Family, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's tensors under published names: one per expert, no tied head, bfloat16 but for FLOAT32."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and family.config["tie_word_embeddings"]:
            continue
        match = EXPERTS.fullmatch(name)
        if match is None:
            tensors[name] = value
            continue
        for number, expert in enumerate(value):
            parts = ("gate_proj", "up_proj") if match[2] == "gate_up_proj" else ("down_proj",)
            for part, weight in zip(parts, expert.chunk(len(parts)), strict=True):
                tensors[f"{match[1]}.{number}.{part}.weight"] = weight
    tensors |= family.extra_tensors(family.config, family.plan.seed)
    dtypes = {name: torch.float32 if name.endswith(FLOAT32) else torch.bfloat16 for name in tensors}
    return {name: value.detach().to(dtypes[name]).contiguous() for name, value in tensors.items()}


def write_checkpoint(family: Family, model: torch.nn.Module, tokenizer: Tokenizer, out: Path) -> None:
    """Write weights, configuration and tokenizer into `out`, which may exist."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(published(family, model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it private
    write_json(out / "config.json", family.config)
    end, *stops = (tokenizer.token_to_id(token) for token in (END_OF_TEXT, *family.tokens.stops))
    generation = {"do_sample": False, "eos_token_id": stops, "pad_token_id": end}
    if "bos_token_id" in family.config:
        generation = {"bos_token_id": end, **generation}
    version = family.config["transformers_version"]
    write_json(out / "generation_config.json", {**generation, "transformers_version": version})
    context = family.config.get("text_config", family.config)["max_position_embeddings"]
    write_tokenizer(tokenizer, out, family.tokens, context)
    if family.preprocessor is not None:
        write_json(out / "preprocessor_config.json", family.preprocessor)
    (out / "chat_template.jinja").write_text(family.chat_template, encoding="utf-8")
