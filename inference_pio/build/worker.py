"""Builds one engine, or says what is here, in a process of its own: a builder gives its memory back only by ending.

`python -m inference_pio.build.worker FILE` reads a job from a JSON file and writes its result to the file that the job
names; an error is one sentence on standard error, and its exit code that of the command line.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inference_pio.build.profiles import Profile
from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends import tensorrt_library as library
from inference_pio.runtime.backends.cuda_library import open_cuda

PREVIEW = "FASTER_DYNAMIC_SHAPES_0805"
"""An option of TensorRT 8.5 and 8.6 that is the default later."""


@dataclass(frozen=True)
class Job:
    """What to build; without `onnx` only the machine is looked at.

    `profiles` are those of `build.profiles`; `quantized` says that the graph has QuantizeLinear; files are paths.
    """

    result: str
    dialect: str
    device: int = 0
    onnx: str = ""
    engine: str = ""
    timing_cache: str = ""
    profiles: tuple[Profile, ...] = ()
    quantized: bool = False
    workspace: int | None = None

    def write(self, path: Path) -> None:
        """The job as JSON."""
        path.write_text(json.dumps(asdict(self)), "utf-8")


def run(job: Job) -> dict[str, Any]:
    """Do a job and return the facts of the machine, and the seconds that building took."""
    tensorrt = library.import_tensorrt(job.dialect)
    cuda = open_cuda(library.cuda_major(tensorrt, job.dialect), job.device)
    facts: dict[str, Any] = dict(library.engine_facts(tensorrt, cuda))
    free, total = cuda.free_and_total()
    facts |= {"free_memory": free, "total_memory": total}
    if job.onnx:
        started = time.monotonic()
        Path(job.engine).write_bytes(_engine(job, tensorrt))
        facts["seconds"] = round(time.monotonic() - started, 3)
    return facts


def _engine(job: Job, tensorrt: Any) -> Any:
    """The bytes of an engine; raises BadInputError when TensorRT refuses the graph."""
    try:
        from polygraphy.backend import trt as polygraphy
        from polygraphy.exception import PolygraphyException
    except ImportError as error:
        extra = library.line_of(job.dialect).extra
        raise BadInputError(
            f"Polygraphy cannot be imported ({error}): install it with pip install 'inference-pio[{extra}]'"
        ) from None
    strong = hasattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    limits = {} if job.workspace is None else {tensorrt.MemoryPoolType.WORKSPACE: job.workspace}
    preview = getattr(getattr(tensorrt, "PreviewFeature", None), PREVIEW, None)
    shapes = [polygraphy.Profile() for _ in job.profiles]
    for profile, ranges in zip(shapes, job.profiles, strict=True):
        for name, (least, best, most) in ranges.items():
            profile.add(name, tuple(least), tuple(best), tuple(most))
    config = polygraphy.CreateConfig(
        profiles=shapes,
        int8=job.quantized and not strong,
        memory_pool_limits=limits,
        load_timing_cache=job.timing_cache if Path(job.timing_cache).is_file() else None,
        preview_features=None if preview is None else [preview],
    )
    parse = polygraphy.NetworkFromOnnxPath(job.onnx, strongly_typed=strong)

    def network() -> Any:
        builder, parsed, *parser = parse()
        allow_decomposition(tensorrt, parsed)
        return builder, parsed, *parser

    try:
        return polygraphy.EngineBytesFromNetwork(network, config, save_timing_cache=job.timing_cache)()
    except PolygraphyException as error:
        raise BadInputError(
            f"TensorRT {tensorrt.__version__} does not build {job.onnx} ({_one_line(error)}): read its messages in the "
            f"log beside the engines, and try inference-pio inspect --lint {job.dialect}"
        ) from None


def allow_decomposition(tensorrt: Any, network: Any) -> None:
    """Let TensorRT take attention apart where it has no fused kernel, as in float32; it refuses the graph otherwise."""
    kind = getattr(tensorrt.LayerType, "ATTENTION_INPUT", None)
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = tensorrt.IAttentionInputLayer
            layer.attention.decomposable = True


def main(arguments: list[str]) -> int:
    """Do the job in a file; returns the exit code."""
    try:
        job = Job(**json.loads(Path(arguments[0]).read_text("utf-8")))
        Path(job.result).write_text(json.dumps(run(job)), "utf-8")
    except InferencePioError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
