"""The manifest survives the round trip, and is refused when it is newer, broken or beyond its schema."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inference_pio.artifact.manifest import Accuracy, CacheSpec, Source, fingerprint
from inference_pio.artifact.manifest_reader import read_manifest
from inference_pio.errors import BadInputError

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import FILES, hash_of, manifest_of, read, rewrite, write_artifact

ACCURACY = Accuracy("int8", False, {"kl_mean": 1e-3, "positions": 4096, "kl_p99": None}, ["too far"])


@pytest.mark.parametrize(
    "changes",
    [{}, {"accuracy": ACCURACY}, {"source": Source("é \U0001f600", {}, 3)}],
    ids=["plain", "accuracy", "names"],
)
def test_round_trip(tmp_path, changes):
    manifest = manifest_of(FILES, **changes)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    assert read_manifest(tmp_path) == manifest
    assert read_manifest(tmp_path).to_bytes() == manifest.to_bytes()


def test_a_real_one(tiny_artifact):
    manifest = read_manifest(tiny_artifact("int8"))
    assert manifest.to_bytes() == (tiny_artifact("int8") / "manifest.json").read_bytes()
    assert manifest.parameters == manifest.model.parameters > 1_000_000


def test_accuracy_is_added_and_nothing_else_changes():
    manifest = manifest_of(FILES)
    assert manifest.with_accuracy(ACCURACY) == replace(manifest, accuracy=ACCURACY)


def test_what_would_break_the_schema_is_not_written():
    with pytest.raises(ValueError, match="must match"):
        manifest_of(FILES, fingerprint="short").to_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest_of(FILES, accuracy=replace(ACCURACY, metrics={"kl_mean": float("nan")})).to_bytes()


def test_the_text_is_stable_and_ends_with_a_newline():
    text = manifest_of(FILES).to_bytes().decode()
    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_fingerprint_depends_on_names_contents_and_cache():
    files = {name: hash_of(data) for name, data in FILES.items()}
    cache = CacheSpec(2, 1, 16, "float32")
    reference = fingerprint(files, cache)
    assert fingerprint(dict(reversed(files.items())), cache) == reference
    others = [
        fingerprint({**files, "model.onnx": hash_of(b"other")}, cache),
        fingerprint({**files, "more": hash_of(b"")}, cache),
        fingerprint({f"{name}2": entry for name, entry in files.items()}, cache),
        fingerprint(files, replace(cache, head_dim=32)),
    ]
    assert len({reference, *others}) == 5


def test_the_dialect_is_optional(tmp_path):
    folder = broken(write_artifact(tmp_path / "a"), dialect="trt85")
    assert read_manifest(folder).target_key == "ort-cpu/trt85"
    values = read(folder)
    del values["dialect"]
    rewrite(folder, values)
    assert read_manifest(folder).dialect == "" and read_manifest(folder).target_key == "ort-cpu"


def broken(folder: Path, **changes: object) -> Path:
    rewrite(folder, {**read(folder), **changes})
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "schema version 2, and this installation reads up to 1: upgrade"),
        ({"schema_version": 10**30}, "upgrade inference-pio"),
        ({"schema_version": 2, "files": 7}, "upgrade inference-pio"),
        ({"schema_version": 0}, "schema_version must be 1"),
        ({"schema_version": "1"}, "schema_version must be of type integer"),
        ({"schema_version": True}, "schema_version must be of type integer"),
        ({"schema_version": None}, "schema_version must be of type integer"),
        ({"unknown": 1}, "unknown entry 'unknown'"),
        ({"un\nknown": 1}, r"unknown entry 'un\\nknown'"),
        ({"x" * 10_000: 1}, "unknown entry 'xxx"),
        ({"graphs": []}, "graphs must have at least 1"),
        ({"cache": {}}, "manifest.cache lacks 'layers'"),
        ({"target": None}, "manifest.target must be of type string"),
    ],
    ids=str,
)
def test_unusable_manifests(tmp_path, changes, words):
    folder = broken(write_artifact(tmp_path / "a"), **changes)
    with pytest.raises(BadInputError, match=words) as caught:
        read_manifest(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"null", b"{", b"\xff\xfe{}", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}'),
        *(b'{"a": ' + b"1" * 5000 + b"}", b'{"a": ' + b"[" * 100_000, b'{"schema_version": 1, "schema_version": 1}'),
        b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=lambda content: content[:20].decode("ascii", "replace"),
)
def test_no_json_object(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BadInputError, match=r"manifest\.json") as caught:
        read_manifest(tmp_path)
    assert str(caught.value).isprintable()


def test_a_huge_manifest_is_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInputError, match="1099511627776 bytes"):
        read_manifest(tmp_path)


def test_no_manifest_is_no_artifact(tmp_path):
    with pytest.raises(BadInputError, match=r"is not an artifact: it has no manifest\.json"):
        read_manifest(tmp_path)


def test_a_cache_is_of_keys_and_values_unless_it_says_otherwise(tmp_path):
    """As manifests did before they could say so."""
    folder = write_artifact(tmp_path / "artifact")
    values = read(folder)
    assert values["cache"].pop("kinds") == ["key", "value"]
    rewrite(folder, values)
    assert read_manifest(folder).cache == CacheSpec(2, 1, 16, "float32")


def test_bytes_of_a_token_follow_the_kinds():
    assert CacheSpec(47, 1, 576, "float32", ["latent"]).bytes_per_token == 47 * 576 * 4
    assert CacheSpec(47, 20, 256, "float32").bytes_per_token == 47 * 20 * 512 * 4
    assert CacheSpec(2, 4, 16, "int8").bytes_per_token == 2 * 2 * 4 * 16


@pytest.mark.parametrize("kinds", [[], ["keys"], "latent", [1], None])
def test_other_kinds_are_refused(tmp_path, kinds):
    folder = write_artifact(tmp_path / "artifact")
    values = read(folder)
    values["cache"]["kinds"] = kinds
    rewrite(folder, values)
    with pytest.raises(BadInputError, match="kinds"):
        read_manifest(folder)
