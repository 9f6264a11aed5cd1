"""What the verbs share: sizes, text in and JSON out, folders from the environment, words safe for a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from inference_pio.cli.common import (
    SIZE,
    cache_dir,
    engine_config,
    hub_cache,
    read_text,
    sampling_params,
    size_text,
    visible,
    write_json,
)
from inference_pio.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("1", 1), (7, 7), ("1b", 1), ("1k", 1000), ("1kB", 1000), ("1KiB", 1024), ("1 mb", 10**6)),
        *(("2.5G", 2_500_000_000), ("1TiB", 1 << 40), (" 3GB ", 3 * 10**9), ("0.5KiB", 512), ("12Mi", 12 << 20)),
    ],
)
def test_sizes(text, size):
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "1,5GB", "1.GB", ".5GB", "1iB", "1PB", "1GBB", "9" * 400])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


def test_sizes_for_people():
    sizes = (0, 999, 1000, 999_949, 12_345_678, 5e12)
    assert [size_text(n) for n in sizes] == ["0 B", "999 B", "1.0 kB", "999.9 kB", "12.3 MB", "5000.00 GB"]


def test_what_a_terminal_would_obey_is_escaped():
    assert visible("plain é 漢 \U0001f600") == "plain é 漢 \U0001f600"
    assert visible("a\nb\t\x1b[2J\x07\udcff") == "a\\nb\\t\\x1b[2J\\x07\\udcff"


def test_json_to_standard_output_and_to_files(capsys, tmp_path):
    value = {"text": "é\n", "none": None}
    write_json(value, "-")
    assert json.loads(capsys.readouterr().out) == value
    write_json(value, str(tmp_path / "new" / "folder" / "out.json"))
    assert json.loads((tmp_path / "new" / "folder" / "out.json").read_text()) == value
    assert capsys.readouterr().out == ""


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file" / "out.json"):
        with pytest.raises(BadInputError, match="cannot be written"):
            write_json({}, str(place))


def test_text_from_files_and_from_standard_input(monkeypatch, tmp_path):
    (tmp_path / "f").write_bytes("é\r\n".encode())
    assert read_text(str(tmp_path / "f")) == "é\r\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"in")))
    assert read_text("-") == "in"
    (tmp_path / "bad").write_bytes(b"ok \xff")
    with pytest.raises(BadInputError, match=r"is not UTF-8 text \(byte 3\)"):
        read_text(str(tmp_path / "bad"))
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BadInputError, match="cannot be read"):
            read_text(str(place))


def test_folders_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("XDG_CACHE_HOME", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_dir() == Path("/home/somebody/.cache/inference-pio")
    assert hub_cache() == Path("/home/somebody/.cache/huggingface/hub")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("HF_HOME", "/hf")
    assert (cache_dir(), hub_cache()) == (Path("/cache/inference-pio"), Path("/hf/hub"))
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert hub_cache() == Path("/hub")


def test_options_become_parameters():
    values = {"temperature": 0.5, "stop": ("a", "b"), "stop_token_id": (), "n": 2}
    params = sampling_params(values)
    assert (params.temperature, params.stop, params.stop_token_ids, params.n) == (0.5, ("a", "b"), None, 2)
    assert "stop_token_id" in values  # the caller's own are left alone


def test_options_become_a_configuration():
    sizes = ("max_memory", "max_context", "prefix_cache_bytes", "max_image_tokens")
    unset = dict.fromkeys((*sizes, "backend", "device", "threads", "verify_hashes", "map_weights"))
    values = {**unset, "threads": 2, "allow_failed": False, "temperature": 1.0}
    config = engine_config(values)
    assert (config.threads, config.allow_failed, config.prefix_cache_bytes) == (2, False, 256 << 20)
    assert config.cache_dir == cache_dir()
    assert values == {"temperature": 1.0}
