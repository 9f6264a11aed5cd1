"""Placeholders become tokens, chunks get their features, and the prefix cache knows images by their content."""

from __future__ import annotations

import numpy as np
import pytest

from inference_pio.artifact.manifest import VisionFacts
from inference_pio.errors import BadInputError
from inference_pio.runtime.vision.features import Features
from inference_pio.runtime.vision.grid import Grid
from inference_pio.runtime.vision.preprocess import Patches
from inference_pio.runtime.vision.prompt import expand

IMAGE, VIDEO = 90, 91
FACTS = VisionFacts(8, 2, 2, 6, IMAGE, VIDEO, 92, 93)


def patches(name: str, height: int, width: int, frames: int = 1) -> Patches:
    return Patches(np.zeros((frames, height * width, 4), np.float32), Grid(frames, height, width), name.encode())


def features(image: Patches) -> Features:
    """Two layers of two channels that say which image, layer and token they are of."""
    count = image.grid.frames * image.grid.frame_tokens(2)
    rows = np.arange(count)[:, None] + np.array([0.0, 0.25]) + 1000 * image.digest[0]
    return Features(np.stack([rows, rows + 0.5]).astype(np.float32))


def expanded(ids, images=(), videos=()):
    return expand(ids, images, videos, FACTS, features)


def test_placeholders_become_tokens():
    ids, placed = expanded([1, IMAGE, 2, IMAGE, 3], [patches("a", 4, 6), patches("b", 2, 2)])
    assert ids == [1, *[IMAGE] * 6, 2, IMAGE, 3]
    assert [(frame.span.start, frame.patches.digest) for frame in placed.frames] == [(1, b"a"), (8, b"b")]


def test_every_frame_of_a_video_has_a_placeholder():
    ids, placed = expanded([VIDEO, 7, VIDEO, IMAGE], [patches("a", 2, 2)], [patches("v", 2, 4, frames=2)])
    assert ids == [VIDEO, VIDEO, 7, VIDEO, VIDEO, IMAGE]
    assert [frame.frame for frame in placed.frames] == [0, 1, 0]
    with pytest.raises(BadInputError, match="1 placeholder for video frames and 2 video frames"):
        expanded([VIDEO], [], [patches("v", 2, 4, frames=2)])


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_chunks_hold_the_features_of_their_tokens(size):
    images, videos = [patches("a", 4, 4), patches("b", 2, 6)], [patches("v", 2, 4, frames=2)]
    ids, placed = expanded([5, IMAGE, 5, 5, VIDEO, 5, VIDEO, IMAGE, 5, 5, 5, 5], images, videos)
    layers = [features(image).layers for image in images]
    film = features(videos[0]).layers
    order = [layers[0], film[:, :2], film[:, 2:], layers[1]]
    whole = np.zeros((2, len(ids), 2), np.float32)
    whole[:, np.isin(ids, (IMAGE, VIDEO))] = np.concatenate(order, axis=1)
    for start in range(0, len(ids), size):
        chunk = placed.chunk(start, start + size)
        expected = np.isin(ids[start : start + size], (IMAGE, VIDEO))
        assert (chunk is None) == (not expected.any())
        if chunk is not None:
            count = len(expected)
            assert np.array_equal(chunk.mask[0, :count], expected)
            assert np.array_equal(chunk.layers[:, 0, :count], whole[:, start : start + count])


def test_features_are_asked_for_when_a_chunk_needs_them():
    asked = []

    def slow(image: Patches) -> Features:
        asked.append(image.digest)
        return features(image)

    _, placed = expand([1] * 8 + [IMAGE] + [1] * 8, [patches("a", 4, 4)], [], FACTS, slow)
    assert placed.chunk(0, 8) is None and placed.chunk(12, 20) is None and asked == []
    assert placed.chunk(0, 12) is not None and asked == [b"a"]


def keys(*images: Patches, ids=(1, 2, 3, IMAGE, 4, 5, 6, 7, 8, 9, 10, 11), block: int = 4) -> list[int]:
    tokens, placed = expanded(list(ids), images)
    return placed.cache_ids(tokens, block)


def test_blocks_of_text_keep_their_ids():
    found = keys(patches("a", 2, 2))
    assert len(found) == 12 and found[4:] == [4, 5, 6, 7, 8, 9, 10, 11]
    assert found[:4] != [1, 2, 3, IMAGE]
    assert all(0 <= key < 2**31 for key in found)


def test_content_size_and_place_enter_the_keys():
    base = keys(patches("a", 2, 2))
    assert base == keys(patches("a", 2, 2))
    assert base[:4] != keys(patches("b", 2, 2))[:4]
    wide, high = keys(patches("a", 4, 8)), keys(patches("b", 4, 8))
    assert not set(wide[:8]) & set(high[:8])  # both blocks with its tokens
    other_text = keys(patches("a", 2, 2), ids=(1, 2, 9, IMAGE, 4, 5, 6, 7, 8, 9, 10, 11))
    assert base[:4] != other_text[:4]


def test_the_later_blocks_of_an_image_differ_from_each_other():
    found = keys(patches("a", 4, 24), ids=(IMAGE,))
    assert len(found) == 24 and len({tuple(found[i : i + 4]) for i in range(0, 24, 4)}) == 6


def test_two_images_cannot_change_places():
    ids = (IMAGE, 1, IMAGE, 2)
    one, other = (keys(patches(a, 2, 2), patches(b, 2, 2), ids=ids) for a, b in ("ab", "ba"))
    assert one != other


def test_a_part_of_a_block_keeps_its_ids():
    """It never enters the cache, so nothing has to be made up for it."""
    assert keys(patches("a", 2, 2), ids=(1, IMAGE, 2)) == [1, IMAGE, 2]
