"""`inference-pio calibrate`, and `export` with a calibration: help, exit codes, JSON, what stands where."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from shapes import write_shape

from inference_pio.cli import main

FAST = ("--samples", 2, "--sample-length", 16, "--threads", 1, "--calibration", __file__)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def assert_refused(result: tuple[int, str, str], word: str, code: int = 2) -> None:
    found, out, err = result
    assert found == code, err
    last = err.strip().splitlines()[-1]
    assert last.lower().startswith("error: ") and word in last
    assert "Traceback" not in err and out == ""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("odd_sizes", tmp_path_factory.mktemp("cli") / "checkpoint")


def test_help_names_every_option(capsys):
    code, out, _ = run(capsys, "calibrate", "--help")
    assert code == 0
    for option in ("--output", "--precision", "--calibration", "--samples", "--sample-length", "--without", "--json"):
        assert option in out
    assert "smoothing" in out and "second-order" in out and "min-max" in out


def test_a_calibration_serves_an_export(capsys, checkpoint, tmp_path):
    folder = tmp_path / "calibration"
    code, out, err = run(capsys, "calibrate", checkpoint, "-o", folder, *FAST, "--layers", 2)
    assert code == 0 and "wrote" in out and "w8a8, 2 layers" in out and "worst" in out
    assert "expected for the calibration: peak memory" in err and "bundled" not in err
    assert_refused(run(capsys, "calibrate", checkpoint, "-o", folder, *FAST), "--force")
    code, out, _ = run(capsys, "calibrate", checkpoint, "-o", folder, *FAST, "--layers", 1, "--force", "--json", "-")
    facts = json.loads(out)
    assert code == 0 and facts == json.loads((folder / "calibration.json").read_text()) and facts["layers"] == 1

    arguments = ("export", checkpoint, "-o", tmp_path / "out", "--precision", "w8a8", "--calibration", folder)
    assert_refused(run(capsys, *arguments), "holds 1 layers, 3 are asked for")
    assert run(capsys, *arguments, "--layers", 1)[0] == 0
    assert_refused(run(capsys, *arguments, "--precision", "int4-calibrated", "--force"), "recipe w8a8")


def test_an_export_calibrates_on_a_text(capsys, checkpoint, tmp_path):
    arguments = ("export", checkpoint, "-o", tmp_path / "out", "--precision", "w8a8-static", "--layers", 1)
    assert_refused(run(capsys, *arguments), "--calibration FILE")
    code, _, err = run(capsys, *arguments, *FAST, "--without", "smoothing")
    assert code == 0 and "expected for the calibration" in err
    assert {path.name for path in tmp_path.iterdir()} - {"cache", "home"} == {"out"}


def test_steps_can_be_left_out(capsys, checkpoint, tmp_path):
    tensor = "model.layers.0.input_layernorm.weight"
    for name, without in (("all", ()), ("plain", ("--without", "smoothing"))):
        arguments = (*FAST, "--layers", 1, *without, "--json", tmp_path / f"{name}.json")
        code, out, _ = run(capsys, "calibrate", checkpoint, "-o", tmp_path / name, *arguments)
        assert code == 0 and out == ""
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        assert facts["options"]["switches"]["smoothing"] == (name == "all") == (facts["bought"]["smoothed"] > 0)
        assert facts["options"]["switches"]["clipping"]
        arrays = load_file(tmp_path / name / "layers" / "00000.safetensors")
        assert (tensor in arrays) == (name == "all") and not np.isnan(arrays["cache.0.key"]).any()
    assert_refused(run(capsys, "calibrate", checkpoint, "-o", tmp_path / "x", *FAST, "--without", "rest"), "rest")


def test_refusals_have_their_exit_codes(capsys, checkpoint, tmp_path):
    begin = ("calibrate", checkpoint, "-o", tmp_path / "out", *FAST)
    assert_refused(run(capsys, *begin, "--max-memory", "50MB"), "--max-memory allows 50MB", code=4)
    assert_refused(run(capsys, *begin, "--samples", 0), "samples")
    assert_refused(run(capsys, *begin, "--sample-length", 0), "length")
    assert_refused(run(capsys, *begin, "--sample-length", 300), "context of 256")
    assert_refused(run(capsys, *begin, "--calibration", tmp_path / "none.txt"), "none.txt")
    assert_refused(run(capsys, *begin, "--precision", "w9a9"), "w9a9")
    assert_refused(run(capsys, *begin, "--target", "abacus"), "abacus")
    assert_refused(run(capsys, *begin, "--observer", "guess"), "guess")
    assert_refused(run(capsys, *begin, "--precision", "w8a8", "--observer", "mse"), "recipe w8a8 has none")
    assert_refused(run(capsys, *begin, "--threads", 0), "--threads")
    assert_refused(run(capsys, "calibrate", tmp_path / "none", "-o", tmp_path / "out"), "none")
    assert not (tmp_path / "out").exists()


def test_the_bundled_text_is_named(capsys, checkpoint, tmp_path):
    arguments = ("--samples", 1, "--sample-length", 8, "--layers", 1, "--without", "smoothing", "--threads", 1)
    code, _, err = run(capsys, "calibrate", checkpoint, "-o", tmp_path / "out", *arguments)
    assert code == 0 and "bundled texts" in err
