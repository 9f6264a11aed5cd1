"""Our validator and the jsonschema library agree on sound manifests and on hundreds of broken ones."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from inference_pio.artifact.manifest import schema
from inference_pio.artifact.schema import validate

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import FILES, manifest_of, read

SOUND = json.loads(manifest_of(FILES).to_bytes())
JUNK: list[Any] = [None, True, False, 0, 1, -1, 2.5, "", "x", "A" * 64, [], [1], ["x"], {}, {"x": 1}]

Path_ = tuple[str | int, ...]


def places(value: Any, at: Path_ = ()) -> list[Path_]:
    """Where a value can be changed: every key and index, the innermost ones last."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([at] if at else []), *(place for key, item in items for place in places(item, (*at, key)))]


def holder(value: Any, place: Path_) -> Any:
    for key in place[:-1]:
        value = value[key]
    return value


PLACES = places(SOUND)


def agree(value: Any) -> bool:
    """Whether the manifest is valid, after asking both."""
    expected = Draft202012Validator(schema()).is_valid(value)
    problem = validate(value, schema())
    assert (problem is None) == expected, problem
    assert problem is None or (problem.startswith("manifest") and problem.isprintable() and len(problem) < 500)
    return expected


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema())


def test_sound_manifests(tiny_artifact):
    assert agree(SOUND)
    for precision in ("fp32", "int4"):
        assert agree(read(tiny_artifact(precision)))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_every_entry_with_every_kind_of_junk(place):
    for junk in JUNK:
        broken = copy.deepcopy(SOUND)
        holder(broken, place)[place[-1]] = junk
        agree(broken)


def test_every_entry_missing():
    refused = []
    for place in PLACES:
        broken = copy.deepcopy(SOUND)
        del holder(broken, place)[place[-1]]
        if not agree(broken):
            refused.append(place)
    assert {("files",), ("accuracy",), ("cache", "dtype"), ("graphs", 0), ("graphs", 0, "layers")} <= set(refused)
    assert ("source", "layers_kept") not in refused


def test_an_entry_too_many_everywhere():
    refused = 0
    for place in [(), *PLACES]:
        broken = copy.deepcopy(SOUND)
        target = broken
        for key in place:
            target = target[key]
        if isinstance(target, dict):
            target["evil"] = {"\n": "\x1b[2J"}
            refused += not agree(broken)
    assert refused > 10


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/passwd", "a/../b", "./x", "", ".", "..", "a//b", "a/", ".hidden", "a/.hidden", "-x"),
        *("a b", "a\\b", "C:x", "a\x00b", "é", "a\nb", "~", "a" * 300, "sub/model.onnx", "LICENSE.txt"),
    ],
)
def test_file_names(name):
    broken = copy.deepcopy(SOUND)
    broken["files"][name] = broken["files"]["model.onnx"]
    assert agree(broken) == (name in ("a" * 300, "sub/model.onnx", "LICENSE.txt"))


@pytest.mark.parametrize("value", [[], "x", 1, None, True, [SOUND]])
def test_a_manifest_that_is_no_object(value):
    assert not agree(value)


def test_a_whole_float_is_no_integer_here():
    """JSON Schema takes 1.0 for an integer; what reads the manifest does not."""
    broken = copy.deepcopy(SOUND)
    broken["model"]["layers"] = 2.0
    assert Draft202012Validator(schema()).is_valid(broken)
    assert validate(broken, schema()) == "manifest.model.layers must be of type integer"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.just(0.5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
def test_several_changes_at_once(changes):
    broken = copy.deepcopy(SOUND)
    for place, value in changes:
        try:
            holder(broken, place)[place[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed the place
    agree(broken)
