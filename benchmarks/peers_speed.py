"""Prefill and decode speed, load time and memory beside onnxruntime-genai, OpenVINO GenAI and llama.cpp.

Every round measures all contenders, one fresh process each, and starts with another one; a process loads, runs one
random prompt to warm up and measures another of the same length. Figures are medians over the rounds; a ratio is the
median of the rounds' ratios to the row that --against names. OpenVINO and llama.cpp run in an environment of their own
(--peers-python), made from peers/requirements.txt.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    HERE,
    artifact,
    checkpoint,
    child,
    common_options,
    folder_bytes,
    genai_export,
    last_line,
    median,
    megabytes,
    one_decimal,
    ratio,
    run,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)

SPEEDS = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s"}
MEASURES = (*SPEEDS.values(), "load_s", "steady_rss_bytes", "peak_rss_bytes")
PEERS = ("openvino", "openvino-genai", "optimum-intel", "nncf", "llama-cpp-python", "gguf", "numpy")
# OpenVINO's defaults: an 8-bit cache, and activations rounded to int8 with one scale for 32 values of a token. A group
# larger than a product is deep, or than the groups of int4 weights, is as slow as no rounding at all.
OPENVINO_VARIANTS: dict[str, dict[str, Any]] = {
    "f32-cache": {"KV_CACHE_PRECISION": "f32"},
    "f16-cache": {"KV_CACHE_PRECISION": "f16"},
    "group128": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128},
    "group1024": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 1024},
}
# llama.cpp's defaults are flash attention and a float16 cache.
LLAMA_VARIANTS: dict[str, dict[str, Any]] = {
    "": {"cache": "F16", "flash": True},
    "no-flash": {"cache": "F16", "flash": False},
    "q8-cache": {"cache": "Q8_0", "flash": True},
}
OPENVINO_ROWS = ["int8", "int8:f32-cache", "int8:group1024", "int4", "int4:group128"]
LLAMA_ROWS = ["Q8_0", "Q8_0:no-flash", "Q4_0", "Q4_0:no-flash"]


@dataclass(frozen=True)
class Contender:
    """One row: the child that measures it, what the child is told besides the request, its files, its interpreter."""

    name: str
    child: str
    told: dict[str, Any]
    folder: Path
    python: Path | None = None


def ours(source: Path, work: Path, asked: str, cache_dir: str) -> Contender:
    """`NAME=ARTIFACT`, or a recipe (`int8`, `int4:32` for a block size) that is exported where it is missing."""
    name, _, path = asked.partition("=")
    precision, _, block = name.partition(":")
    folder = Path(path) if path else artifact(source, work, precision, int(block) if block else None)
    told = {"artifact": str(folder), "prefix_cache_bytes": 0, "cache_dir": cache_dir, "sampling": {"temperature": 0.0}}
    return Contender(f"ours {name}", "generate_ours", told, folder)


def genai(source: Path, work: Path, precision: str) -> Contender:
    """A precision of onnxruntime-genai's builder."""
    folder = genai_export(source, work, precision)
    return Contender(f"genai {precision}", "generate_genai", {"folder": str(folder)}, folder)


def openvino(source: Path, work: Path, asked: str, python: Path) -> Contender:
    """`WEIGHTS` or `WEIGHTS:VARIANT`: int8 or int4, and f32-cache, f16-cache, group128, group1024, joined by `+`."""
    weights, _, variant = asked.partition(":")
    properties: dict[str, Any] = {}
    for part in filter(None, variant.split("+")):
        if part not in OPENVINO_VARIANTS:
            raise SystemExit(f"--openvino {asked}: {part} is none of {', '.join(OPENVINO_VARIANTS)}")
        properties |= OPENVINO_VARIANTS[part]
    folder = work / "peers" / f"{source.name}-openvino-{weights}"
    if not folder.exists():
        convert(python, "openvino", source, folder, ["--weights", weights])
    told = {"folder": str(folder), "properties": properties}
    name = f"openvino {weights}" + (f", {variant}" if variant else "")
    return Contender(name, "generate_openvino", told, folder, python)


def llama(source: Path, work: Path, asked: str, python: Path) -> Contender:
    """`TYPE` or `TYPE:VARIANT`: Q8_0, Q4_0 or BF16, with flash attention and a float16 cache, no-flash, or q8-cache."""
    weights, _, variant = asked.partition(":")
    if variant not in LLAMA_VARIANTS:
        raise SystemExit(f"--llama {asked}: {variant} is none of {', '.join(filter(None, LLAMA_VARIANTS))}")
    file = work / "peers" / f"{source.name}-llama-{weights}" / "model.gguf"
    if not file.exists():
        convert(python, "llama", source, file, ["--type", weights])
    told = {"file": str(file), **LLAMA_VARIANTS[variant]}
    name = f"llama.cpp {weights}" + (f", {variant}" if variant else "")
    return Contender(name, "generate_llama", told, file.parent, python)


def convert(python: Path, peer: str, source: Path, out: Path, arguments: list[str]) -> None:
    """Run a converter of `peers/` in the peers' environment."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = run([python, HERE / "peers" / f"convert_{peer}.py", source, out, *arguments])
    if done.code != 0:
        raise SystemExit(f"conversion for {peer}: {last_line(done.stderr)}")


def contenders(options: argparse.Namespace, source: Path, work: Path, cache_dir: str) -> list[Contender]:
    """All rows in the order of the table; what is missing is exported or converted."""
    found = [ours(source, work, asked, cache_dir) for asked in options.ours]
    found += [genai(source, work, precision) for precision in options.genai]
    if options.peers_python is not None:
        found += [openvino(source, work, asked, options.peers_python) for asked in options.openvino]
        found += [llama(source, work, asked, options.peers_python) for asked in options.llama]
    return found


def measure(
    rows: list[Contender], tokens: int, vocabulary: int, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Results per contender, one per round."""
    asked = {"threads": options.threads, "prompt_tokens": tokens, "new_tokens": options.new_tokens}
    results: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    for seed in range(options.repeat):
        first = seed % len(rows)
        for row in rows[first:] + rows[:first]:
            warm(row.folder)
            told = {**asked, **row.told, "seed": seed, "vocab_size": vocabulary}
            results[row.name].append(child(row.child, told, row.python).result)
    return results


def summary(
    rows: list[Contender], tokens: int, results: dict[str, list[dict[str, Any]]], against: str
) -> list[dict[str, Any]]:
    """Medians of every contender, and how its rounds compare with those of `against`."""
    found = []
    for row in rows:
        rounds = list(zip(results[row.name], results[against], strict=True))
        line: dict[str, Any] = {"prompt": tokens, "who": row.name, "size_bytes": folder_bytes(row.folder)}
        line |= {key: median([one[key] for one, _ in rounds]) for key in MEASURES}
        for short, key in SPEEDS.items():
            line[f"{short}_ratio"] = median([one[key] / base[key] for one, base in rounds])
        known = [(one["tokens"][0], base["tokens"][0]) for one, base in rounds if "tokens" in one and "tokens" in base]
        line["same_first_token"] = f"{sum(a == b for a, b in known)} of {len(known)}" if known else None
        found.append(line)
    return found


def display(rows: list[dict[str, Any]], against: str) -> None:
    print(f"\nratios: to {against}")
    show(
        rows,
        {
            "prompt": None,
            "who": None,
            "prefill_tokens_per_s": one_decimal,
            "prefill_ratio": ratio,
            "decode_tokens_per_s": one_decimal,
            "decode_ratio": ratio,
            "load_s": two_decimals,
            "steady_rss_bytes": megabytes,
            "peak_rss_bytes": megabytes,
            "size_bytes": megabytes,
            "same_first_token": None,
        },
    )


def peer_versions(python: Path | None) -> dict[str, str]:
    """Versions in the peers' environment."""
    if python is None:
        return {}
    code = f"import importlib.metadata as m, json; print(json.dumps({{name: m.version(name) for name in {PEERS!r}}}))"
    return run([python, "-c", code]).result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--peers-python", type=Path, help="python of the peers; without it they are left out")
    parser.add_argument("--ours", nargs="*", default=["int8", "int4"], help=ours.__doc__)
    parser.add_argument("--genai", nargs="*", default=["int8", "int4"], help=genai.__doc__)
    parser.add_argument("--openvino", nargs="*", default=OPENVINO_ROWS, help=openvino.__doc__)
    parser.add_argument("--llama", nargs="*", default=LLAMA_ROWS, help=llama.__doc__)
    parser.add_argument("--against", metavar="WHO", help="row that the ratios refer to, as in the table (the first)")
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    raw = {}
    with work_folder(options.work) as work, tempfile.TemporaryDirectory() as cache_dir:
        source = checkpoint(options.checkpoint, options.layers, work)
        vocabulary = json.loads((source / "config.json").read_text("utf-8"))["vocab_size"]
        rows = contenders(options, source, work, cache_dir)
        names = [row.name for row in rows]
        against = options.against or names[0]
        if against not in names:
            raise SystemExit(f"--against {against} is none of: {'; '.join(names)}")
        for tokens in options.prompt_tokens:
            raw[tokens] = measure(rows, tokens, vocabulary, options)
            lines += summary(rows, tokens, raw[tokens], against)
            display([line for line in lines if line["prompt"] == tokens], against)
    asked = {key: getattr(options, key) for key in ("prompt_tokens", "new_tokens", "threads", "repeat")}
    about = {"checkpoint": source.name, "asked": asked, "against": against}
    save(options.json, {**about, "peers": peer_versions(options.peers_python), "summary": lines, "rounds": raw})


if __name__ == "__main__":
    main()
