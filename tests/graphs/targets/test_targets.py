"""A target is found by its name and the dialect that the hardware understands."""

from dataclasses import replace

import pytest
from expert_cases import arrays_of, build, experts_spec

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import OPSET
from inference_pio.graphs.targets import find_pair, find_target, ort_cpu, supported


@pytest.fixture
def two_dialects(monkeypatch):
    """The target of CPUs in two dialects."""
    (target,) = ort_cpu.TARGETS
    found = (replace(target, dialect="old"), replace(target, dialect="new"))
    monkeypatch.setattr(ort_cpu, "TARGETS", found)
    return found


def test_targets_by_name():
    assert "ort-cpu" in supported()
    for name in ("ort_cpu", "cpu", "", "target", "../ort-cpu"):
        with pytest.raises(BadInputError, match=r"is not known; known are .*ort-cpu"):
            find_target(name)
        with pytest.raises(BadInputError, match=r"is not known; known are .*ort-cpu"):
            find_pair(name, "sm61")


def test_every_target_is_called_as_its_file_and_once():
    for name in supported():
        module = __import__(f"inference_pio.graphs.targets.{name.replace('-', '_')}", fromlist=["TARGETS"])
        assert {target.name for target in module.TARGETS} == {name}
        assert len({target.dialect for target in module.TARGETS}) == len(module.TARGETS)


def test_a_target_of_one_form():
    target, hardware = find_pair("ort-cpu", "auto")
    assert target is find_target("ort-cpu") and target.key == "ort-cpu" and hardware.name == "cpu"


def test_dialects(two_dialects):
    assert find_target("ort-cpu", "new") is two_dialects[1]
    assert [target.key for target in two_dialects] == ["ort-cpu/old", "ort-cpu/new"]
    with pytest.raises(BadInputError, match="target ort-cpu has no dialect 'newest'; it has old, new"):
        find_target("ort-cpu", "newest")


def test_a_pair_that_does_not_fit():
    with pytest.raises(BadInputError, match="target ort-cpu does not run on sm61"):
        find_pair("ort-cpu", "sm61")


def test_lowering_for_one_target_leaves_the_functions_of_another_model():
    spec = experts_spec()
    first, second = build(spec, arrays_of(spec)), build(spec, arrays_of(spec))
    assert first.functions
    for part in first.functions.values():
        part.opset_imports[""] = 17
    assert {function.opset_imports[""] for function in second.functions.values()} == {OPSET}
    assert {function.opset_imports[""] for function in build(spec, arrays_of(spec)).functions.values()} == {OPSET}
