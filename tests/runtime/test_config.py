"""Engine options: defaults, and values that make no sense."""

import pytest

from inference_pio.errors import BadInputError
from inference_pio.runtime.config import EngineConfig, VerifyHashes


def test_defaults():
    config = EngineConfig()
    assert (config.threads, config.max_memory, config.max_context) == (None, None, None)
    assert config.prefix_cache_bytes == 256 << 20
    assert config.verify_hashes is VerifyHashes.FIRST_OPEN


def test_words_become_choices():
    assert EngineConfig(verify_hashes="always").verify_hashes is VerifyHashes.ALWAYS
    assert EngineConfig(prefix_cache_bytes=0, threads=3, backend="ort", device="cpu").threads == 3


@pytest.mark.parametrize("name", ["threads", "max_memory", "max_context", "prefix_cache_bytes"])
@pytest.mark.parametrize("value", [-1, 1.0, "2", True, [1]])
def test_numbers(name, value):
    with pytest.raises(BadInputError, match=f"{name} must be a whole number of at least"):
        EngineConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", "openvino"),
        ("backend", None),
        ("device", "gpu"),
        ("device", "cuda:-1"),
        ("verify_hashes", "no"),
        ("verify_hashes", None),
    ],
)
def test_choices(name, value):
    with pytest.raises(BadInputError, match=f"{name} .*is not known: use"):
        EngineConfig(**{name: value})


def test_a_cache_folder(tmp_path):
    assert EngineConfig(cache_dir=str(tmp_path)).cache == EngineConfig(cache_dir=tmp_path).cache == tmp_path
    with pytest.raises(BadInputError, match="cache_dir must be the path of a folder, not 7"):
        EngineConfig(cache_dir=7)


def test_devices():
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        assert EngineConfig(device=device).device == device
    with pytest.raises(BadInputError, match="map_weights is for the CPU"):
        EngineConfig(device="cuda", map_weights="on")
