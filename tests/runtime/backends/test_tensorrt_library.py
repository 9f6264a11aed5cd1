"""Which TensorRT runs what, and how its versions are told apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.backends import tensorrt_library as library


@pytest.mark.parametrize(
    ("version", "dialect"),
    [("8.5.3.1", "trt85"), ("8.6.1", "trt85"), ("10.15.1.29", "modern"), ("11.4.0.106", "modern")],
)
def test_versions_that_run_a_dialect(version, dialect):
    library.check_version(version, dialect)


@pytest.mark.parametrize(
    ("version", "dialect"), [("8.4.3", "trt85"), ("10.0.1", "trt85"), ("10.14.1", "modern"), ("12.0.0", "modern")]
)
def test_versions_that_do_not(version, dialect):
    with pytest.raises(BadInputError, match=f"TensorRT {version} is installed, and dialect {dialect} needs"):
        library.check_version(version, dialect)


def test_an_unknown_dialect_is_refused():
    with pytest.raises(BadInputError, match="export for tensorrt"):
        library.line_of("")


@pytest.mark.parametrize(
    ("packages", "dialect", "major"),
    [
        ([], "trt85", 11),
        ([], "modern", 12),
        (["tensorrt_cu12_bindings-10.15.1.29.dist-info"], "modern", 12),
        (["tensorrt_cu13_libs-11.4.0.106.dist-info"], "modern", 13),
    ],
)
def test_the_cuda_that_it_was_built_for(tmp_path, packages, dialect, major):
    for name in packages:
        (tmp_path / name).mkdir()
    module = SimpleNamespace(__file__=str(tmp_path / "tensorrt" / "__init__.py"))
    assert library.cuda_major(module, dialect) == major


def test_memory_for_activations_by_version():
    assert library.scratch_bytes(SimpleNamespace(device_memory_size=5)) == 5
    assert library.scratch_bytes(SimpleNamespace(device_memory_size=5, device_memory_size_v2=6)) == 6


def test_an_engine_that_is_refused_names_the_reason(tmp_path):
    (tmp_path / "x.engine").write_bytes(b"")
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: None)
    with pytest.raises(BadInputError, match=r"refuses the engine .*x\.engine \(built elsewhere\)"):
        library.deserialize(runtime, SimpleNamespace(last_error="built elsewhere"), tmp_path / "x.engine")
