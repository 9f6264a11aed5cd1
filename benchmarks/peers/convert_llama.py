"""Write a Qwen3 or Qwen3-MoE checkpoint as GGUF and let llama.cpp quantize it; runs in the peers' environment.

    python benchmarks/peers/convert_llama.py CHECKPOINT OUT.gguf --type Q8_0

The vocabulary is left out (`no_vocab`), because the benchmark feeds token ids. Weights stay bfloat16 until llama.cpp
quantizes them with its own defaults, which choose the type of the token table; norms and routers are float32.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

FILE_TYPES = {
    "BF16": None,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}

ARCHITECTURES = {"qwen3": gguf.MODEL_ARCH.QWEN3, "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE}
EXPERT = re.compile(r"(.+)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")


def tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Names and bits of all tensors, uint16 for bfloat16; ValueError for another dtype."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] != "BF16":
                raise ValueError(f"{name} of {file} is {entry['dtype']}; this converter reads BF16 checkpoints")
            start, _ = entry["data_offsets"]
            yield name, np.memmap(file, np.uint16, "r", 8 + length + start, tuple(entry["shape"]))


def with_stacked_experts(checkpoint: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """As `tensors`, the experts of a layer in one tensor [experts, rows, columns], as GGUF has them."""
    experts: dict[str, dict[int, np.ndarray[Any, Any]]] = {}
    for name, bits in tensors(checkpoint):
        found = EXPERT.fullmatch(name)
        if found is None:
            yield name, bits
        else:
            experts.setdefault(f"{found[1]}.experts.{found[3]}.weight", {})[int(found[2])] = bits
    for name, parts in experts.items():
        yield name, np.stack([parts[expert] for expert in sorted(parts)])


def write(checkpoint: Path, out: Path) -> None:
    """The checkpoint as a bfloat16 GGUF file; ValueError for another model, or a tensor unknown to GGUF."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    architecture = ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{checkpoint} has model_type {config['model_type']}; this converter knows {known}")
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[architecture], use_temp_file=True)
    if architecture is gguf.MODEL_ARCH.QWEN3MOE:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    names = gguf.get_tensor_name_map(architecture, layers)
    for name, bits in with_stacked_experts(checkpoint):
        known = names.get_name(name, (".weight",))
        if known is None:
            raise ValueError(f"GGUF has no name for tensor {name} of {checkpoint}")
        if bits.ndim == 1 or name.endswith(".mlp.gate.weight"):
            writer.add_tensor(known, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            raw = np.ascontiguousarray(bits).view(np.uint8)
            writer.add_tensor(known, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, out: Path, file_type: int, threads: int) -> None:
    """llama.cpp's own quantization with its defaults; RuntimeError when it fails."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, threads
    code = llama_cpp.llama_model_quantize(bytes(source), bytes(out), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize of {source} gave {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=list(FILE_TYPES), required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    file_type = FILE_TYPES[options.type]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if file_type is None:
        write(options.checkpoint, options.out)
        return
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        source, quantized = Path(folder) / "bf16.gguf", Path(folder) / "quantized.gguf"
        write(options.checkpoint, source)
        quantize(source, quantized, file_type, options.threads)
        quantized.replace(options.out)


if __name__ == "__main__":
    main()
