"""Write a Qwen3 checkpoint as GGUF and let llama.cpp quantize it; runs in the peers' environment.

    python benchmarks/peers/convert_llama.py CHECKPOINT OUT.gguf --type Q8_0

The vocabulary is left out (`no_vocab`), because the benchmark feeds token ids. Weights stay bfloat16 until llama.cpp
quantizes them with its own defaults, which choose the type of the token table; norms are float32.
"""

from __future__ import annotations

import argparse
import ctypes
import json
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


def write(checkpoint: Path, out: Path) -> None:
    """The checkpoint as a bfloat16 GGUF file; ValueError for what is no Qwen3 or has a tensor unknown to GGUF."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    if config["model_type"] != "qwen3":
        raise ValueError(f"{checkpoint} has model_type {config['model_type']}; this converter knows qwen3")
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
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
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for name, bits in tensors(checkpoint):
        known = names.get_name(name, (".weight",))
        if known is None:
            raise ValueError(f"GGUF has no name for tensor {name} of {checkpoint}")
        if bits.ndim == 1:
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
