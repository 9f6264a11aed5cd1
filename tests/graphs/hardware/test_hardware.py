"""Hardware profiles are found by name or by target, and the pair is checked."""

import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware import find_hardware, supported


def test_auto_is_the_targets_own():
    assert find_hardware("auto", "ort-cpu") is find_hardware("cpu", "ort-cpu")
    assert find_hardware("cpu", "ort-cpu").cpu_classes == ("any",)


def test_a_pair_that_does_not_fit_is_refused():
    with pytest.raises(BadInputError, match="target ort-cuda does not run on cpu: use ort-cpu"):
        find_hardware("cpu", "ort-cuda")


@pytest.mark.parametrize("name", ["gpu", "", "hardware", "CPU"])
def test_unknown_names_are_refused(name):
    with pytest.raises(BadInputError, match=f"is not known: use auto or {', '.join(supported())}"):
        find_hardware(name, "ort-cpu")
