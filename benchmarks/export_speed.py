"""Export one checkpoint with every exporter at hand: time, peak memory, size, and what is fused.

Every export is a fresh process, one at a time, with the checkpoint in the page cache. Time and peak memory are those
of the whole process, imports included.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    Finished,
    checkpoint,
    child,
    common_options,
    folder_bytes,
    genai_export_command,
    last_line,
    megabytes,
    one_decimal,
    pio,
    run,
    save,
    show,
    warm,
    work_folder,
)

FUSED = (
    "GroupQueryAttention",
    "MultiHeadAttention",
    "Attention",
    "RotaryEmbedding",
    "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization",
    "RMSNormalization",
    "MatMulNBits",
    "GatherBlockQuantized",
)
"""Operators that stand for several simple ones."""


@dataclass(frozen=True)
class Exporter:
    """A way to export: takes the checkpoint and the folder to fill."""

    name: str
    precision: str
    export: Callable[[Path, Path], Finished]


def exporters(ours_only: bool, precisions: list[str]) -> list[Exporter]:
    """Ours first, then the others, which need several times the checkpoint in memory."""
    found = [Exporter("inference-pio", name, _ours(name)) for name in precisions]
    if not ours_only:
        found += [Exporter("onnxruntime-genai builder", name, _genai(name)) for name in precisions]
        found.append(Exporter("transformers exporters", "fp32", _transformers))
    return found


def _ours(precision: str) -> Callable[[Path, Path], Finished]:
    return lambda source, out: pio("export", source, "-o", out, "--precision", precision)


def _genai(precision: str) -> Callable[[Path, Path], Finished]:
    return lambda source, out: run(genai_export_command(source, out, precision, out.with_name("genai-cache")))


def _transformers(source: Path, out: Path) -> Finished:
    done = child("export_transformers", {"checkpoint": str(source), "out": str(out), "how": "exporters"})
    if done.code == 0:
        return done
    print(f"transformers' exporter failed ({last_line(done.stderr)}); torch.onnx.export instead")
    shutil.rmtree(out, ignore_errors=True)
    return child("export_transformers", {"checkpoint": str(source), "out": str(out), "how": "torch"})


def measure(exporter: Exporter, source: Path, work: Path, repeat: int) -> dict[str, Any]:
    """Medians of time and peak memory over `repeat` exports, and what the last one wrote."""
    out = work / "export"
    runs = []
    for _ in range(repeat):
        shutil.rmtree(out, ignore_errors=True)
        warm(source)
        runs.append(exporter.export(source, out))
        if runs[-1].code != 0:
            return {"exporter": exporter.name, "precision": exporter.precision, "error": last_line(runs[-1].stderr)}
    written = child("inspect_graph", {"folder": str(out)}).result
    row = {
        "exporter": exporter.name,
        "precision": exporter.precision,
        "seconds": statistics.median(done.seconds for done in runs),
        "peak_bytes": statistics.median(done.peak_bytes for done in runs),
        "size_bytes": folder_bytes(out),
        "fused": {name: written["operators"][name] for name in FUSED if name in written["operators"]},
        **written,
    }
    shutil.rmtree(out)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--ours-only", action="store_true", help="leave out the others, for large checkpoints")
    parser.add_argument("--precisions", nargs="+", default=["int8", "int4", "fp32"])
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    rows = []
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        size = folder_bytes(source)
        print(f"checkpoint: {source.name}, {megabytes(size)}")
        for exporter in exporters(options.ours_only, options.precisions):
            rows.append(measure(exporter, source, work, options.repeat))
    show(
        rows,
        {
            "exporter": None,
            "precision": None,
            "seconds": one_decimal,
            "peak_bytes": megabytes,
            "size_bytes": megabytes,
            "nodes": None,
            "fused": lambda counts: " ".join(f"{name}:{count}" for name, count in counts.items()),
            "error": None,
        },
    )
    save(options.json, {"checkpoint": source.name, "checkpoint_bytes": size, "exports": rows})


if __name__ == "__main__":
    main()
