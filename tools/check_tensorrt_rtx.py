"""Let NVIDIA's own parser and builder judge an artifact for TensorRT 10.15, without a GPU.

TensorRT-RTX (`pip install tensorrt-rtx-cu12`) reads ONNX with the importer of TensorRT and compiles ahead of time on a
CPU, for compute capabilities from 7.5 on. What it refuses an engine will not be built of; what it accepts still has to
be built and timed on a GPU, by TensorRT itself.

    python tools/check_tensorrt_rtx.py ARTIFACT [--capability 8.6] [--max-context 4096]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.cache_rows import rounded_up
from inference_pio.artifact.manifest import GraphFacts
from inference_pio.build.options import DEFAULT_CONTEXT
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


def judge(artifact: Artifact, graph: GraphFacts, capability: str = "8.6", max_context: int | None = None) -> Judgement:
    """Parse a graph and build it with the profiles of `inference-pio build`."""
    import tensorrt_rtx as rtx

    context = min(max_context or DEFAULT_CONTEXT, artifact.manifest.model.context_length)
    log, started = _log(rtx), time.monotonic()
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, log)
    if not parser.parse_from_file(str(artifact.file(graph.file).resolve())):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        return Judgement(graph.file, 0, 0, 0.0, "; ".join(f"{e.node_name()}: {_line(e.desc())}" for e in errors))
    allow_decomposition(rtx, network)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    for ranges in profiles(graph, rounded_up(context)):
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    seconds = time.monotonic() - started
    if engine is None:
        return Judgement(graph.file, network.num_layers, 0, seconds, _line(log.last or "no reason given"))
    return Judgement(graph.file, network.num_layers, engine.nbytes, seconds, "")


def _log(rtx: Any) -> Any:
    """A logger that keeps the first error of several."""

    class Log(rtx.ILogger):
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (rtx.ILogger.ERROR, rtx.ILogger.INTERNAL_ERROR) and not self.last:
                self.last = message

    return Log()


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def main(arguments: list[str]) -> int:
    """Judge every graph that becomes an engine and print a table; returns 3 when one was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="an artifact of target tensorrt, dialect modern")
    parser.add_argument("--capability", choices=("7.5", "8.0", "8.6", "8.9", "12.0"), default="8.6")
    parser.add_argument("--max-context", type=int)
    asked = parser.parse_args(arguments)
    try:
        import tensorrt_rtx as rtx

        artifact = Artifact.open(asked.artifact)
    except (ImportError, InferencePioError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"TensorRT-RTX {rtx.__version__}, compute capability {asked.capability}")
    refused = 0
    for graph in artifact.manifest.graphs:
        if graph.role in ROLES:
            found = judge(artifact, graph, asked.capability, asked.max_context)
            result = found.refusal or f"{found.layers} layers, {found.size / 1e6:.1f} MB, {found.seconds:.1f} s"
            print(f"{found.graph:<18} {'REFUSED: ' if found.refusal else ''}{result}")
            refused += bool(found.refusal)
    return 3 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
