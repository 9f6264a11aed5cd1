"""Saved references: a lower bound of KL, the same everything else, and strict reading."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify import metrics
from inference_pio.verify.saved import SavedReference, collect, load_reference
from inference_pio.verify.windows import Text, cut

FACTS = {
    "parameters": 7,
    "layers_kept": None,
    "source": {"config.json": {"sha256": "00", "size": 3}},
    "versions": {"torch": "2"},
}


def logits(vocabulary: int, positions: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (positions, vocabulary)).astype(np.float32)


def reference(vocabulary: int, positions: int = 60) -> tuple[SavedReference, np.ndarray]:
    original = logits(vocabulary, positions)
    tokens = np.random.default_rng(5).integers(0, vocabulary, positions + 1).tolist()
    windows = cut(Text("text", "content"), tokens, 25, positions)
    return collect(lambda a, b: original[a:b], windows, vocabulary, FACTS), original


def compared(saved: SavedReference, candidate: np.ndarray) -> metrics.PositionTable:
    targets = saved.windows.targets
    return metrics.compare(saved.compare_rows, lambda a, b: candidate[a:b], targets, saved.vocabulary)


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 255, 256, 257, 3000])
@pytest.mark.parametrize("noise", [1e-4, 0.05, 3.0])
def test_kl_is_a_lower_bound_and_the_rest_is_exact(vocabulary: int, noise: float) -> None:
    saved, original = reference(vocabulary)
    candidate = original + noise * logits(vocabulary, seed=1)
    full = metrics.compare_rows(original, candidate, saved.windows.targets)
    table = compared(saved, candidate)
    assert (table.kl <= full.kl + 1e-6 * np.sqrt(full.kl) + 1e-10).all()  # the stored values are float32
    if vocabulary <= 256:
        assert table.kl == pytest.approx(full.kl, rel=1e-3, abs=1e-10)
    else:
        assert table.kl.mean() > 0.3 * full.kl.mean()
    assert (table.reference_top == full.reference_top).all()
    assert (table.candidate_top == full.candidate_top).all()
    assert (table.in_top5 == full.in_top5).all()
    assert table.reference_nll == pytest.approx(full.reference_nll, abs=1e-9)
    assert table.candidate_nll == pytest.approx(full.candidate_nll, abs=1e-9)
    if vocabulary > 1:
        assert table.gap == pytest.approx(full.gap, abs=1e-5)
    assert metrics.summarise(table, 0.1).max_logit_difference is None


@pytest.mark.parametrize("vocabulary", [200, 3000])
def test_rounding_to_float32_does_not_look_like_a_difference(vocabulary: int) -> None:
    saved, original = reference(vocabulary)
    assert compared(saved, original).kl.max() < 1e-10


def test_a_broken_artifact_is_infinitely_far_away() -> None:
    saved, original = reference(300)
    original = original.copy()
    original[3, 7] = np.nan
    assert metrics.summarise(compared(saved, original), 0.1).kl_mean == np.inf


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved, original = reference(300)
    path = tmp_path / "reference.npz"
    saved.save(path)
    again = load_reference(path)
    assert again.facts == {**FACTS, "vocabulary": 300}
    assert again.windows.describe() == saved.windows.describe()
    candidate = original + logits(300, seed=2)
    for one, other in zip(
        vars(compared(saved, candidate)).values(), vars(compared(again, candidate)).values(), strict=True
    ):
        assert np.array_equal(one, other, equal_nan=True)
    assert list(tmp_path.iterdir()) == [path]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def lying(data: bytes) -> bytes:
    """The same header with a shape that would fill the memory."""
    start = data.index(b"(60,")
    huge = b"(1" + b"0" * 14 + b","
    padding = data.index(b"\n") - len(huge) + 4
    return data[:start] + (huge + data[start + 4 : padding]) + data[data.index(b"\n") :]


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        array = np.lib.format.read_array(io.BytesIO(members[f"{name}.npy"]))
        members[f"{name}.npy"] = npy(change(array.copy()))

    return apply


def with_meta(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(array: np.ndarray) -> np.ndarray:
        meta = {**json.loads(array.tobytes()), **changes}
        return np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)

    return changed("meta", change)


def put(index: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


DAMAGE: dict[str, Callable[[dict[str, bytes]], None]] = {
    "a missing array": lambda members: members.pop("tail.npy") and None,
    "a pickle": lambda members: members.update({"meta.npy": npy(np.array([{"a": 1}], dtype=object))}),
    "an endless shape": lambda members: members.update({"tail.npy": lying(members["tail.npy"])}),
    "another type": changed("tail", lambda a: a.astype(np.float32)),
    "big endian": changed("tail", lambda a: a.astype(">f8")),
    "another rank": changed("tail", lambda a: a[None]),
    "a missing position": changed("tail", lambda a: a[:-1]),
    "a missing row": changed("top_ids", lambda a: a[:-1]),
    "a missing column": changed("top_log_probs", lambda a: np.ascontiguousarray(a[:, :-1])),
    "not a number": changed("next_log_probs", put(0, np.nan)),
    "a negative tail": changed("tail", put(0, -0.1)),
    "a tail beyond one": changed("tail", put(0, 1.5)),
    "a probability beyond one": changed("top_log_probs", put((0, 0), 1.0)),
    "probabilities out of order": changed("top_log_probs", put((0, 3), 0.0)),
    "an id outside the vocabulary": changed("top_ids", put((0, 0), 300)),
    "a negative id": changed("top_ids", put((0, 0), -1)),
    "another token": changed("tokens", lambda a: np.roll(a, 1)),
    "a token too few": changed("tokens", lambda a: a[:-1]),
    "another schema": with_meta(schema_version=2),
    "a vocabulary that is no number": with_meta(vocabulary="300"),
    "a smaller vocabulary": with_meta(vocabulary=299),
    "no text": with_meta(text=None),
    "facts of another type": with_meta(source=[]),
    "meta that is no JSON": changed("meta", lambda a: a[1:]),
    "meta that is a list": changed("meta", lambda a: np.frombuffer(b"[]", dtype=np.uint8)),
    "an unknown format version": lambda members: members.update(
        {"tail.npy": members["tail.npy"][:6] + b"\x09\x00" + members["tail.npy"][8:]}
    ),
    "a cut array": lambda members: members.update({"tail.npy": members["tail.npy"][:-1]}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "reference.npz"
    reference(300)[0].save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    DAMAGE[what](members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BadInputError, match="not a usable saved reference"):
        load_reference(path)


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    """A small file could unpack to any size."""
    path = tmp_path / "reference.npz"
    reference(300)[0].save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BadInputError, match="compressed"):
        load_reference(path)


@pytest.mark.parametrize("content", [None, b"", b"PK", b"no archive"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "reference.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match="not a usable saved reference"):
        load_reference(path)


def test_any_cut_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    reference(3, positions=2)[0].save(path)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(BadInputError):
            load_reference(path)
