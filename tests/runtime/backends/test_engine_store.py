"""Where engines are kept: keyed, private, bounded, complete or absent."""

from __future__ import annotations

import os
import time

import pytest

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.engine_store import KEPT, EngineStore, graph_hash

PROFILES = [{"x": [[1], [2], [3]]}]
FACTS = {"gpu": "G", "compute_capability": "6.1", "tensorrt": "8.5.3.1"}


@pytest.fixture
def manifest(block_artifact):
    return Artifact.open(block_artifact("fp32")).manifest


@pytest.fixture
def block(manifest):
    return manifest.graph("block")


def filled(root, manifest, block, facts=None):
    store = EngineStore(root, manifest, facts or FACTS)
    store.create()
    built = store.folder / ".built"
    built.write_bytes(b"engine")
    store.put(block, built, graph_hash(manifest, block), PROFILES, 1.0)
    return store


def test_an_engine_comes_back_checked(tmp_path, manifest, block):
    store = filled(tmp_path, manifest, block)
    file, record = store.checked(block)
    assert file.read_bytes() == b"engine"
    assert (record.profiles, record.source) == (PROFILES, graph_hash(manifest, block))


@pytest.mark.parametrize("other", [{"gpu": "H"}, {"tensorrt": "8.6.1"}, {"compute_capability": "7.5"}])
def test_other_gpus_and_versions_have_other_folders(tmp_path, manifest, block, other):
    filled(tmp_path, manifest, block)
    with pytest.raises(BadInputError, match=r"only for G with TensorRT 8\.5\.3\.1"):
        EngineStore(tmp_path, manifest, {**FACTS, **other}).checked(block)


def test_the_folders_are_private(tmp_path, manifest, block):
    store = filled(tmp_path, manifest, block)
    assert [oct(folder.stat().st_mode & 0o777) for folder in (store.root, store.folder)] == ["0o700", "0o700"]
    store.folder.chmod(0o770)
    with pytest.raises(BadInputError, match="others can write"):
        store.checked(block)


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"source": 1'])
def test_a_broken_record_is_no_engine(tmp_path, manifest, block, broken):
    store = filled(tmp_path, manifest, block)
    store.file(block).with_suffix(".json").write_bytes(broken)
    assert store.record(block) is None


def test_an_engine_without_record_is_none(tmp_path, manifest, block):
    store = filled(tmp_path, manifest, block)
    store.file(block).with_suffix(".json").unlink()
    assert store.record(block) is None


def test_the_oldest_folders_go(tmp_path, manifest, block):
    stores = []
    for number in range(KEPT + 1):
        stores.append(filled(tmp_path, manifest, block, {**FACTS, "gpu": str(number)}))
        past = time.time() - 1000 + number
        os.utime(stores[-1].folder / "facts.json", (past, past))
    stores[0].touch()
    assert [store.folder.exists() for store in stores] == [True, False, True, True]


def test_graphs_of_equal_names_have_other_hashes(manifest):
    blocks = [graph for graph in manifest.graphs if graph.role == "block"]
    assert len({graph_hash(manifest, graph) for graph in blocks}) == len(blocks) > 1
