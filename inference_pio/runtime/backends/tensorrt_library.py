"""The tensorrt package: importing it, its versions, and calls that differ between them.

Names were checked against the modules of 8.5.3.1 and against the bindings of 10.15 and 11.4.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.errors import BadInputError, InferencePioError
from inference_pio.runtime.backends.cuda_library import Cuda

LOG = logging.getLogger("inference_pio")


@dataclass(frozen=True)
class TensorRTLine:
    """Versions that run a dialect: from `least` on and below `below`, the extra to install, and their CUDA."""

    least: tuple[int, int]
    below: tuple[int, int]
    extra: str
    cuda: int

    @property
    def words(self) -> str:
        return f"TensorRT {_dotted(self.least)} to below {_dotted(self.below)}"


LINES = {
    "trt85": TensorRTLine((8, 5), (8, 7), "trt85", cuda=11),
    "modern": TensorRTLine((10, 15), (12, 0), "tensorrt", cuda=12),
}
"""By the dialect of an artifact. The wheel of 8.5.3.1 is for CUDA 11."""


def line_of(dialect: str) -> TensorRTLine:
    """The versions for a dialect; raises BadInputError for an artifact that is not for TensorRT."""
    if dialect not in LINES:
        raise BadInputError(f"dialect '{dialect}' is not one of TensorRT's ({', '.join(LINES)}): export for tensorrt")
    return LINES[dialect]


def import_tensorrt(dialect: str) -> Any:
    """The tensorrt module; raises BadInputError when it is missing, cannot load, or has the wrong version."""
    line = line_of(dialect)
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise BadInputError(
            f"TensorRT cannot be imported ({error}): install it with pip install 'inference-pio[{line.extra}]' "
            "(8.5 needs Python 3.10), or open the artifact with backend chain"
        ) from None
    check_version(tensorrt.__version__, dialect)
    return tensorrt


def check_version(version: str, dialect: str) -> None:
    """Raise BadInputError unless `version` runs the dialect."""
    line = line_of(dialect)
    found = tuple(int(part) for part in version.split(".")[:2])
    if not line.least <= found < line.below:
        raise BadInputError(
            f"TensorRT {version} is installed, and dialect {dialect} needs {line.words}: pip install "
            f"'inference-pio[{line.extra}]', or export for this version's dialect"
        )


def cuda_major(tensorrt: Any, dialect: str) -> int:
    """The CUDA that the installed TensorRT was built for, where its packages tell; else that of the dialect's line."""
    folder = Path(tensorrt.__file__).parent.parent
    found = (major for major in (13, 12) if any(folder.glob(f"tensorrt_cu{major}*.dist-info")))
    return next(found, line_of(dialect).cuda)


def logger(tensorrt: Any) -> Any:
    """A logger that hands TensorRT's messages to `logging`; the last error is its `last_error`."""

    class Logger(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                self.last_error = message
                LOG.debug("TensorRT: %s", message)

    return Logger()


def deserialize(runtime: Any, log: Any, file: Path) -> Any:
    """The engine in a file; raises BadInputError when TensorRT refuses it."""
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise BadInputError(
            f"TensorRT refuses the engine {file} ({log.last_error or 'no reason given'}): build it again with "
            "inference-pio build --force"
        )
    return engine


def scratch_bytes(engine: Any) -> int:
    """Device memory for the activations of one execution context."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def context_over(tensorrt: Any, engine: Any, profile: int, scratch: int, size: int, stream: int) -> Any:
    """An execution context of a profile, whose activations lie in memory that contexts share."""
    strategy = getattr(tensorrt, "ExecutionContextAllocationStrategy", None)
    if strategy is not None:
        context = engine.create_execution_context(strategy.USER_MANAGED)
    else:
        context = engine.create_execution_context_without_device_memory()
    if context is None:
        raise InferencePioError("TensorRT cannot make an execution context: free GPU memory and try again")
    give_scratch(context, scratch, size)
    if not context.set_optimization_profile_async(profile, stream):
        raise InferencePioError(f"TensorRT refuses profile {profile} of an engine: build it again")
    return context


def give_scratch(context: Any, scratch: int, size: int) -> None:
    """Let a context that is not running keep its activations at an address."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(scratch, size)
    else:
        context.device_memory = scratch


def engine_facts(tensorrt: Any, cuda: Cuda) -> dict[str, str]:
    """What an engine is bound to: the GPU's model and the exact version of TensorRT."""
    return {"gpu": cuda.name, "compute_capability": cuda.capability, "tensorrt": tensorrt.__version__}


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
