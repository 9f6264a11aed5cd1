"""What is called by name exists in the installed TensorRT and Polygraphy; needs no GPU."""

from __future__ import annotations

import inspect

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.backends import tensorrt_library as library

ALWAYS = {
    "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_dtype get_tensor_profile_shape num_optimization_profiles",
    "IExecutionContext": "set_input_shape set_tensor_address execute_async_v3 set_optimization_profile_async",
    "Runtime": "deserialize_cuda_engine",
    "MemoryPoolType": "WORKSPACE",
    "DataType": "FLOAT",
    "NetworkDefinitionCreationFlag": "",
    "ILogger": "ERROR INTERNAL_ERROR",
    "INetworkDefinition": "num_layers get_layer",
}
EITHER = {
    "memory for activations": (
        ("ICudaEngine", "device_memory_size"),
        ("ICudaEngine", "device_memory_size_v2"),
    ),
    "contexts without memory": (
        ("ICudaEngine", "create_execution_context_without_device_memory"),
        ("ExecutionContextAllocationStrategy", "USER_MANAGED"),
    ),
    "memory given to a context": (("IExecutionContext", "device_memory"), ("IExecutionContext", "set_device_memory")),
}


@pytest.fixture(scope="module")
def tensorrt():
    return pytest.importorskip("tensorrt", reason="needs the tensorrt package")


def test_names_that_every_version_has(tensorrt):
    for kind, names in ALWAYS.items():
        assert not [name for name in names.split() if not hasattr(getattr(tensorrt, kind), name)], kind


def test_attention_can_be_taken_apart_where_it_is_a_layer(tensorrt):
    if hasattr(tensorrt.LayerType, "ATTENTION_INPUT"):
        assert hasattr(tensorrt.IAttentionInputLayer, "attention") and hasattr(tensorrt.IAttention, "decomposable")


@pytest.mark.parametrize("what", EITHER)
def test_names_that_changed(tensorrt, what):
    assert any(hasattr(getattr(tensorrt, kind, None), name) for kind, name in EITHER[what])


def test_the_version_belongs_to_one_dialect(tensorrt):
    def fits(dialect):
        try:
            library.check_version(tensorrt.__version__, dialect)
        except BadInputError:
            return False
        return True

    assert sum(fits(dialect) for dialect in library.LINES) == 1


def test_a_logger_can_be_made(tensorrt):
    log = library.logger(tensorrt)
    log.log(tensorrt.ILogger.ERROR, "wrong")
    assert log.last_error == "wrong"


def test_polygraphy_takes_what_the_worker_gives(tensorrt):
    polygraphy = pytest.importorskip("polygraphy.backend.trt", reason="needs Polygraphy")
    kinds = polygraphy.CreateConfig.__mro__
    config = set().union(*(inspect.signature(kind.__init__).parameters for kind in kinds if kind is not object))
    assert {"profiles", "int8", "memory_pool_limits", "load_timing_cache", "preview_features"} <= config
    assert "strongly_typed" in inspect.signature(polygraphy.NetworkFromOnnxPath.__init__).parameters
    assert "save_timing_cache" in inspect.signature(polygraphy.EngineBytesFromNetwork.__init__).parameters
    assert polygraphy.Profile().add("x", (1,), (2,), (3,))["x"].max == (3,)
