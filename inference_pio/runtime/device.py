"""On which device an artifact runs, and whether it can."""

from __future__ import annotations

from inference_pio.artifact.manifest import Manifest
from inference_pio.errors import BadInputError
from inference_pio.machine.gpus import find_gpus
from inference_pio.machine.wheels import WHEELS, find_wheel
from inference_pio.runtime.backends.choose import backend_name
from inference_pio.runtime.backends.cuda import CUDA, check_wheel, load_libraries
from inference_pio.runtime.backends.cuda_library import open_cuda
from inference_pio.runtime.backends.device_memory import CudaMemory, DeviceMemory, HostMemory, check_free
from inference_pio.runtime.backends.ort_device import CANDIDATES
from inference_pio.runtime.backends.ort_session import import_onnxruntime
from inference_pio.runtime.config import EngineConfig


def choose_memory(manifest: Manifest, config: EngineConfig) -> DeviceMemory | None:
    """Where cache and logits live; None for a graph made for CPUs, and for blocks, which have their own ways.

    Raises BadInputError when the artifact was made for another device or backend, and for a GPU that the installed
    software cannot use; ResourceLimitError when the weights do not fit there.
    """
    if backend_name(manifest.target_key, config.backend) != "ort":
        return None
    decoder = manifest.graph("decoder")
    resident = decoder is not None and any(output.name == CANDIDATES for output in decoder.outputs)
    kind = config.device.partition(":")[0]
    if kind == "auto":
        kind = CUDA if resident else "cpu"
    if kind == "cpu":
        return HostMemory() if resident else None
    if not resident:
        raise BadInputError(
            f"the artifact was exported for {manifest.target}: open it with device 'cpu', or export it with "
            "--target ort-cuda"
        )
    memory = open_gpu(config.gpu_number)
    check_free(memory, manifest.memory.weight_bytes, "the weights")
    return memory


def open_gpu(index: int) -> CudaMemory:
    """The memory of a GPU; raises BadInputError when the installed software cannot use it."""
    ort = import_onnxruntime()
    check_wheel(ort, find_gpus(), index)
    load_libraries()
    wheel = find_wheel(ort.__version__) or WHEELS[0]
    return CudaMemory(open_cuda(wheel.cuda, index))
