"""Let NVIDIA's own parser and builder judge an artifact for TensorRT, without a GPU.

TensorRT-RTX (`pip install tensorrt-rtx-cu12`) reads ONNX with the importer of TensorRT and compiles ahead of time on a
CPU, for compute capabilities from 7.5 on. What it refuses an engine will not be built of; what it accepts still has to
be built and timed on a GPU, by TensorRT itself. Blocks for TensorRT 8.5 are taken too, by this much younger compiler.

    python tools/check_tensorrt_rtx.py ARTIFACT [--capability 8.6] [--max-context 4096]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.build.limits import limits_of
from inference_pio.build.options import BuildOptions
from inference_pio.build.pipeline import ROLES
from inference_pio.build.profiles import profiles
from inference_pio.build.worker import allow_decomposition
from inference_pio.errors import InferencePioError


@dataclass(frozen=True)
class Judgement:
    """What became of a graph: layers and bytes of its engine, seconds, and why it was refused ("" where it was not)."""

    graph: str
    layers: int
    size: int
    seconds: float
    refusal: str


def judge(artifact: Artifact, options: BuildOptions, capability: str = "8.6") -> Iterator[Judgement]:
    """Parse and build every graph that becomes an engine, with the profiles of `inference-pio build`."""
    limits = limits_of(artifact, options)
    for graph in artifact.manifest.graphs:
        if graph.role in ROLES:
            yield judge_file(artifact.file(graph.file).resolve(), profiles(graph, limits), capability)


def judge_file(file: Path, ranges: Sequence[Mapping[str, Any]], capability: str = "8.6") -> Judgement:
    """Parse a file and, where that succeeds, build it for these profiles; without any it is only parsed."""
    import tensorrt_rtx as rtx

    log, started = _log(rtx), time.monotonic()
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        refusal = "; ".join(f"{error.node_name()}: {_line(error.desc())}" for error in errors)
        return Judgement(file.name, 0, 0, 0.0, refusal or "no reason given")
    if not ranges:
        return Judgement(file.name, network.num_layers, 0, time.monotonic() - started, "")
    allow_decomposition(rtx, network)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    for shapes in ranges:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    size, refusal = (0, _line(log.first or "no reason given")) if engine is None else (engine.nbytes, "")
    return Judgement(file.name, network.num_layers, size, time.monotonic() - started, refusal)


def _log(rtx: Any) -> Any:
    """A logger that keeps the first error of several."""

    class Log(rtx.ILogger):
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)
            self.first = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (rtx.ILogger.ERROR, rtx.ILogger.INTERNAL_ERROR) and not self.first:
                self.first = message

    return Log()


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def main(arguments: list[str]) -> int:
    """Judge every graph that becomes an engine and print a table; returns 3 when one was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="an artifact of target tensorrt")
    parser.add_argument("--capability", choices=("7.5", "8.0", "8.6", "8.9", "12.0"), default="8.6")
    parser.add_argument("--max-context", type=int)
    asked = parser.parse_args(arguments)
    refused = 0
    try:
        import tensorrt_rtx as rtx

        artifact = Artifact.open(asked.artifact)
        print(f"TensorRT-RTX {rtx.__version__}, compute capability {asked.capability}")
        for found in judge(artifact, BuildOptions(max_context=asked.max_context), asked.capability):
            built = f"{found.layers} layers, {found.size / 1e6:.1f} MB, {found.seconds:.1f} s"
            print(f"{found.graph:<18} {f'REFUSED: {found.refusal}' if found.refusal else built}")
            refused += bool(found.refusal)
    except ImportError as error:
        print(f"error: {error}: pip install tensorrt-rtx-cu12", file=sys.stderr)
        return 2
    except InferencePioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 3 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
