"""Hardware profiles are found by name, by target or by the GPU that is there, and the pair is checked."""

import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs import hardware
from inference_pio.graphs.hardware import find_hardware, profile_of, profiles, supported
from inference_pio.machine.gpus import Gpu


def gpu(capability):
    return Gpu("A card", capability, 6 << 30, 5 << 30, "580.1")


@pytest.fixture
def detected(monkeypatch):
    """Sets the GPUs that are found."""
    return lambda *capabilities: monkeypatch.setattr(hardware, "find_gpus", lambda: [gpu(c) for c in capabilities])


def test_auto_is_the_only_one():
    assert find_hardware("auto", "ort-cpu") is find_hardware("cpu", "ort-cpu")
    assert find_hardware("cpu", "ort-cpu").cpu_classes == ("any",)


@pytest.mark.parametrize(
    ("capability", "name"), [("6.1", "sm61"), ("7.5", "sm75"), ("8.9", "sm89"), ("10.3", "sm100"), ("12.0", "sm120")]
)
def test_auto_is_the_gpu_that_is_there(detected, capability, name):
    detected(capability, "7.5")
    assert find_hardware("auto", "tensorrt").name == name
    if name != "sm100":
        assert find_hardware("auto", "ort-cuda").name == name


def test_no_wheel_that_artifacts_ask_for_has_code_for_sm100(detected):
    detected("10.0")
    with pytest.raises(BadInputError, match="ort-cuda does not run on"):
        find_hardware("auto", "ort-cuda")


def test_auto_without_a_gpu_asks_for_a_name(detected):
    detected()
    with pytest.raises(
        BadInputError, match="tensorrt needs a GPU and none was found here: name one with --hardware sm"
    ):
        find_hardware("auto", "tensorrt")


def test_auto_with_a_gpu_that_nothing_runs_on(detected):
    detected("3.5")
    with pytest.raises(BadInputError, match=r"tensorrt does not run on A card \(compute capability 3.5\)"):
        find_hardware("auto", "tensorrt")
    assert profile_of(gpu("3.5")) is None


@pytest.mark.parametrize(
    ("name", "target", "dialect"),
    [
        ("cpu", "ort-cpu", ""),
        ("sm61", "tensorrt", "trt85"),
        ("sm61", "ort-cuda", "sm61"),
        ("sm75", "tensorrt", "modern"),
        ("sm75", "ort-cuda", "modern"),
        ("sm120", "tensorrt", "modern"),
    ],
)
def test_each_says_the_dialect_it_understands(name, target, dialect):
    assert find_hardware(name, target).dialect_of(target) == dialect


def test_no_two_profiles_claim_a_gpu():
    found = [capability for profile in profiles() for capability in profile.compute_capabilities]
    assert len(found) == len(set(found))
    assert [profile.name for profile in profiles()] == supported()


def test_a_pair_that_does_not_fit_is_refused():
    with pytest.raises(BadInputError, match="target ort-cuda does not run on cpu: use ort-cpu"):
        find_hardware("cpu", "ort-cuda")
    with pytest.raises(BadInputError, match="target ort-cpu does not run on sm61: use tensorrt, ort-cuda"):
        find_hardware("sm61", "ort-cpu")


@pytest.mark.parametrize("name", ["gpu", "", "hardware", "CPU"])
def test_unknown_names_are_refused(name):
    with pytest.raises(BadInputError, match=f"is not known: use auto or {', '.join(supported())}"):
        find_hardware(name, "ort-cpu")
