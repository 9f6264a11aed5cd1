"""Stand-ins for TensorRT and Polygraphy at the boundary of the libraries, over the CUDA of `fake_cuda`.

An "engine" is a note of the graph it was built from, and running one runs that graph on ONNX Runtime's CPU with what
lies at the bound addresses. Wrong calls fail: unbound tensors, and shapes outside the profile.
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
from fake_cuda import FakeDriver, FakeRuntime

from inference_pio.runtime.backends import cuda_library

TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}


class FakeEngine:
    """What deserializing gives."""

    def __init__(self, facts: dict[str, Any], runtime: FakeRuntime, modern: bool) -> None:
        self.facts, self.runtime = facts, runtime
        self.scratch = max(int(np.prod(most)) for each in facts["profiles"] for _, _, most in each.values())
        if modern:
            self.device_memory_size_v2 = self.scratch
            self.create_execution_context = lambda strategy: ModernContext(self)
        else:
            self.device_memory_size = self.scratch
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
        names = {"float": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32"}
        return names[self.types[name].removeprefix("tensor(").removesuffix(")")]

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
        runtime, session = self.engine.runtime, self.engine.session
        memory, size = self.device_memory, self.engine.scratch
        shapes, addresses, reshaped = dict(self.shapes), dict(self.addresses), self.reshaped

        def work() -> None:
            assert self.reshaped == reshaped, "a graph is launched after its context was given other shapes"
            runtime.view(memory, size)
            feeds = {}
            for name in self.engine.inputs:
                dtype = np.dtype(TYPES[self.engine.get_tensor_dtype(name)])
                held = int(np.prod(shapes[name])) * dtype.itemsize
                content = ctypes.string_at(runtime.view(addresses[name], held), held)
                feeds[name] = np.frombuffer(content, dtype).reshape(shapes[name])
            for name, array in zip(self.engine.outputs, session.run(None, feeds), strict=True):
                ctypes.memmove(runtime.view(addresses[name], array.nbytes), array.ctypes.data, array.nbytes)

        runtime.enqueue(work)
        return True


class ModernContext(FakeContext):
    """As TensorRT 10 has it."""

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.scratch, "too little memory for activations"
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
    module.DataType = types.SimpleNamespace(FLOAT="FLOAT", INT32="INT32")
    module.MemoryPoolType = types.SimpleNamespace(WORKSPACE="WORKSPACE")
    if modern:
        module.DataType.INT64, module.DataType.HALF = "INT64", "HALF"
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
