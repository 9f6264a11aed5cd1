"""Stand-ins for CUDA, TensorRT and Polygraphy at the boundary of the libraries.

Device memory is host memory, an "engine" is a note of the graph it was built from, and running one runs that graph on
ONNX Runtime's CPU with what lies at the bound addresses. Wrong calls fail: unbound tensors, shapes outside the profile,
copies outside of allocated memory, use after free, and work that is put on a stream while it is being recorded.
"""

from __future__ import annotations

import ctypes
import json
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from inference_pio.runtime.backends import cuda_library

OUT_OF_MEMORY, INVALID = 2, 1


class Function:
    """A C function as ctypes shows it: it can be given types."""

    def __init__(self, body: Callable[..., Any]) -> None:
        self._body = body
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return self._body(*arguments)


class FakeRuntime:
    """libcudart: memory, one stream at a time, recorded graphs. `calls` counts calls by name."""

    def __init__(self, memory: int = 8 << 30, devices: int = 1, capability: tuple[int, int] = (6, 1)) -> None:
        self.memory, self.devices, self.capability = memory, devices, capability
        self.held: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.calls: dict[str, int] = {}
        self.fetched: list[int] = []
        """Bytes of every copy to the host."""
        self.cudaGetErrorString = Function(lambda code: f"fake error {code}".encode())

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        body = getattr(self, f"_{name.removeprefix('cuda')}")

        def counted(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            return body(*arguments) or 0

        function = Function(counted)
        setattr(self, name, function)
        return function

    @property
    def used(self) -> int:
        return sum(ctypes.sizeof(buffer) for buffer in self.held.values())

    def enqueue(self, work: Callable[[], None]) -> None:
        """Run work, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def view(self, address: int, size: int) -> int:
        """Check that bytes lie in one allocation; returns the address."""
        for start, buffer in self.held.items():
            if start <= address and address + size <= start + ctypes.sizeof(buffer):
                return address
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    def _GetDeviceCount(self, out: Any) -> None:
        out._obj.value = self.devices

    def _SetDevice(self, device: int) -> int:
        return 0 if device < self.devices else INVALID

    def _DeviceGetAttribute(self, out: Any, which: int, device: int) -> None:
        out._obj.value = self.capability[which - 75]

    def _MemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.memory - self.used, self.memory

    def _Malloc(self, out: Any, size: Any) -> int:
        if size.value + self.used > self.memory:
            return OUT_OF_MEMORY
        buffer = ctypes.create_string_buffer(b"\x7f" * size.value, size.value)  # garbage, not zeros
        out._obj.value = ctypes.addressof(buffer)
        self.held[ctypes.addressof(buffer)] = buffer
        return 0

    _MallocHost = _Malloc

    def _Free(self, address: int) -> None:
        del self.held[address]

    _FreeHost = _Free

    def _MemsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        ctypes.memset(self.view(address, size), value, size)

    def _MemcpyAsync(self, target: int, source: int, size: int, direction: int, stream: int) -> int:
        if self.recording is not None:
            return INVALID
        if direction in (cuda_library.TO_DEVICE, cuda_library.ON_DEVICE):
            self.view(target, size)
        if direction in (cuda_library.TO_HOST, cuda_library.ON_DEVICE):
            self.view(source, size)
        if direction == cuda_library.TO_HOST:
            self.fetched.append(size)
        ctypes.memmove(target, source, size)
        return 0

    def _Memcpy2D(self, to: int, to_pitch: int, source: int, pitch: int, width: int, rows: int, kind: int) -> int:
        if kind != cuda_library.BY_ADDRESS or width > min(to_pitch, pitch):
            return INVALID
        for row in range(rows):
            ctypes.memmove(self.view(to + row * to_pitch, width), self.view(source + row * pitch, width), width)
        return 0

    def _DeviceSynchronize(self) -> None:
        pass

    def _StreamCreate(self, out: Any) -> None:
        out._obj.value = 77

    def _StreamSynchronize(self, stream: int) -> int:
        return INVALID if self.recording is not None else 0

    def _StreamDestroy(self, stream: int) -> None:
        pass

    def _StreamBeginCapture(self, stream: int, mode: int) -> None:
        self.recording = []

    def _StreamEndCapture(self, stream: int, out: Any) -> None:
        number = 1000 + self.calls["cudaStreamEndCapture"]
        self.graphs[number], self.recording = self.recording or [], None
        out._obj.value = number

    def _GraphInstantiateWithFlags(self, out: Any, graph: Any, flags: int) -> None:
        out._obj.value = graph.value

    def _GraphDestroy(self, graph: Any) -> None:
        pass

    def _GraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.graphs[graph]:
            work()

    def _GraphExecDestroy(self, graph: int) -> None:
        del self.graphs[graph]


class FakeDriver:
    """libcuda."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetName(self, text: Any, size: int, device: int) -> int:
        text.value = b"Fake GTX 1060"
        return 0


class FakeEngine:
    """What deserializing gives."""

    def __init__(self, facts: dict[str, Any], runtime: FakeRuntime, modern: bool) -> None:
        self.facts, self.runtime = facts, runtime
        if modern:
            self.device_memory_size_v2 = 4096
            self.create_execution_context = lambda strategy: ModernContext(self)
        else:
            self.device_memory_size = 4096
            self.create_execution_context_without_device_memory = lambda: FakeContext(self)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(facts["onnx"], options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = len(facts["profiles"])
        self.types = {value.name: value.type for value in (*self.session.get_inputs(), *self.session.get_outputs())}

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_dtype(self, name: str) -> str:
        return {"tensor(float)": "FLOAT", "tensor(int64)": "INT64"}[self.types[name]]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        return self.facts["profiles"][profile][name]


class FakeContext:
    """Binds addresses and runs."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile, self.device_memory = engine, -1, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.reshaped = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.facts["profiles"][self.profile][name]
        self.reshaped += self.shapes.get(name) != tuple(shape)
        self.shapes[name] = tuple(shape)
        return len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 16 == 0

    def execute_async_v3(self, stream: int) -> bool:
        assert self.device_memory, "no memory for activations"
        runtime, session = self.engine.runtime, self.engine.session
        shapes, addresses, reshaped = dict(self.shapes), dict(self.addresses), self.reshaped

        def work() -> None:
            assert self.reshaped == reshaped, "a graph is launched after its context was given other shapes"
            feeds = {}
            for name in self.engine.inputs:
                dtype = np.dtype(np.int64 if self.engine.get_tensor_dtype(name) == "INT64" else np.float32)
                size = int(np.prod(shapes[name])) * dtype.itemsize
                memory = ctypes.string_at(runtime.view(addresses[name], size), size)
                feeds[name] = np.frombuffer(memory, dtype).reshape(shapes[name])
            for name, array in zip(self.engine.outputs, session.run(None, feeds), strict=True):
                ctypes.memmove(runtime.view(addresses[name], array.nbytes), array.ctypes.data, array.nbytes)

        runtime.enqueue(work)
        return True


class ModernContext(FakeContext):
    """As TensorRT 10 has it."""

    def set_device_memory(self, address: int, size: int) -> None:
        self.device_memory = address


class FakeGpu:
    """The installed fakes, and what the builder was asked for."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.runtime = runtime
        self.configs: list[dict[str, Any]] = []
        self.strongly_typed: list[bool] = []
        self.refuse = ""
        """When set, the builder raises PolygraphyException with this text."""


class Layer:
    """The boundary of a fused attention."""

    type = "attention input"

    def __init__(self) -> None:
        self.attention = types.SimpleNamespace(decomposable=False)


class Network:
    """A parsed graph, of which only the attention operators count."""

    def __init__(self, path: str) -> None:
        self.path = path
        nodes = onnx.load(path, load_external_data=False).graph.node
        self.layers = [Layer() for node in nodes if node.op_type == "Attention"]
        self.num_layers = len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


def install(monkeypatch: pytest.MonkeyPatch, version: str = "8.5.3.1", runtime: FakeRuntime | None = None) -> FakeGpu:
    """Put the fakes in the places of the libraries."""
    gpu = FakeGpu(runtime or FakeRuntime())
    libraries = {"libcuda.so.1": FakeDriver()}
    monkeypatch.setattr(cuda_library, "_library", lambda name: libraries.get(name, gpu.runtime))
    monkeypatch.setitem(sys.modules, "tensorrt", _tensorrt(gpu, version))
    for name, module in _polygraphy(gpu).items():
        monkeypatch.setitem(sys.modules, name, module)
    return gpu


def _tensorrt(gpu: FakeGpu, version: str) -> Any:
    module: Any = types.ModuleType("tensorrt")
    module.__version__, module.__file__ = version, __file__
    modern = int(version.split(".")[0]) >= 10
    module.__spec__ = ModuleSpec("tensorrt", None)
    kinds = {"ATTENTION_INPUT": "attention input"} if modern else {}
    module.LayerType, module.IAttentionInputLayer = types.SimpleNamespace(**kinds), Layer

    class ILogger:
        INTERNAL_ERROR, ERROR = "INTERNAL_ERROR", "ERROR"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
            facts = json.loads(data)
            if facts["version"] != version:
                self._logger.log("ERROR", "built for another version")
                return None
            return FakeEngine(facts, gpu.runtime, modern)

    module.ILogger, module.Runtime = ILogger, Runtime
    module.DataType = types.SimpleNamespace(FLOAT="FLOAT")
    module.MemoryPoolType = types.SimpleNamespace(WORKSPACE="WORKSPACE")
    if modern:
        module.DataType.INT64 = "INT64"
        module.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
        module.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED=2)
    else:
        module.PreviewFeature = types.SimpleNamespace(FASTER_DYNAMIC_SHAPES_0805="FASTER")
        module.NetworkDefinitionCreationFlag = types.SimpleNamespace(EXPLICIT_BATCH=0)
    return module


def _polygraphy(gpu: FakeGpu) -> dict[str, Any]:
    trt: Any = types.ModuleType("polygraphy.backend.trt")
    exception: Any = types.ModuleType("polygraphy.exception")

    class PolygraphyException(Exception):  # noqa: N818
        pass

    class Profile(dict[str, Any]):
        def add(self, name: str, min: Any, opt: Any, max: Any) -> Profile:
            self[name] = [list(min), list(opt), list(max)]
            return self

    def create_config(
        *, profiles: Any, int8: bool, memory_pool_limits: Any, load_timing_cache: Any, preview_features: Any
    ) -> dict[str, Any]:
        asked = {"int8": int8, "limits": memory_pool_limits, "timing": load_timing_cache, "preview": preview_features}
        gpu.configs.append(asked)
        return {"profiles": [dict(profile) for profile in profiles]}

    def network_from_path(path: str, *, strongly_typed: bool) -> Callable[[], tuple[str, Network, str]]:
        assert Path(path).is_absolute()
        gpu.strongly_typed.append(strongly_typed)
        return lambda: ("builder", Network(path), "parser")

    def engine_bytes(network: Any, config: dict[str, Any], *, save_timing_cache: str) -> Callable[[], bytes]:
        def make() -> bytes:
            _, parsed, _ = network()
            if gpu.refuse or not all(layer.attention.decomposable for layer in parsed.layers):
                raise PolygraphyException(gpu.refuse or "attention has no fused kernel")
            Path(save_timing_cache).write_bytes(b"timings")
            return json.dumps({"onnx": parsed.path, "version": sys.modules["tensorrt"].__version__, **config}).encode()

        return make

    trt.Profile, trt.CreateConfig = Profile, create_config
    trt.NetworkFromOnnxPath, trt.EngineBytesFromNetwork = network_from_path, engine_bytes
    exception.PolygraphyException = PolygraphyException
    backend: Any = types.ModuleType("polygraphy.backend")
    backend.trt = trt
    return {
        "polygraphy": types.ModuleType("polygraphy"),
        "polygraphy.backend": backend,
        "polygraphy.backend.trt": trt,
        "polygraphy.exception": exception,
    }
