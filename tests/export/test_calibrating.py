"""Exports that use a calibration: one that is there already, or one that they make on the way."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from artifact_cases import snapshot
from safetensors.numpy import load_file, save_file

from inference_pio.artifact.manifest import Accuracy
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.result import Calibration
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError, GateFailedError
from inference_pio.export.calibrating import open_calibration, row_reader
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.export.progress import SilentProgress

TEXT = Path(__file__)
STEPS = tuple(vars(Switches()))
FAST = CalibrationOptions(text=TEXT, samples=2, length=16, threads=1, switches=Switches().without(STEPS))
OPTIONS = ExportOptions(
    precision="w8a8",
    calibration=TEXT,
    calibration_samples=2,
    calibration_length=16,
    calibration_without=STEPS,
    threads=1,
)


class Story(SilentProgress):
    """Remembers what the calibration said; may end it after so many samples through layers."""

    def __init__(self, stop: int | None = None) -> None:
        self.told: list[tuple[str, int]] = []
        self._stop = stop

    def calibration(self, phase: str, done: int, total: int) -> None:
        self.told.append((phase, done))
        if phase == "layers" and done == self._stop:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`made(precision=...)`: the small checkpoint calibrated, once per set of options; tests must not change it."""
    folder = tmp_path_factory.mktemp("calibrations")

    def make(**changes: Any) -> Path:
        out = folder / ("-".join(map(str, changes.values())).replace("/", "_") or "plain")
        if not out.exists():
            calibrate(small, out, replace(FAST, **changes)).close()
        return out

    return make


def beside(out: Path) -> set[str]:
    return {path.name for path in out.parent.iterdir()} - {"cache", "home"}


def content(out: Path) -> dict[str, str]:
    return {name: digest for name, digest in snapshot(out).items() if name != "build-report.json"}


def refuse(words: str, small: Path, out: Path, **changes: Any) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        export(small, out, replace(OPTIONS, **changes))
    assert str(caught.value).isprintable() and beside(out) <= {"text.txt", "empty", "mine.json"}


def test_one_calibration_serves_several_exports(small: Path, made: Callable[..., Path], tmp_path: Path):
    folder = made()
    before = snapshot(folder)
    for name in ("a", "b"):
        export(small, tmp_path / name, replace(OPTIONS, calibration=folder))
    export(small, tmp_path / "cache8", replace(OPTIONS, calibration=folder, kv_cache="int8"))
    export(small, tmp_path / "short", replace(OPTIONS, calibration=folder, layers=1))
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "cache8")
    assert snapshot(folder) == before


def test_an_export_with_a_text_is_the_same_as_calibrating_first(small: Path, made: Callable[..., Path], tmp_path: Path):
    story = Story()
    export(small, tmp_path / "at_once", OPTIONS, progress=story)
    export(small, tmp_path / "in_two", replace(OPTIONS, calibration=made()))
    assert content(tmp_path / "at_once") == content(tmp_path / "in_two")
    assert beside(tmp_path / "at_once") == {"at_once", "in_two"}
    assert [phase for phase, _ in story.told] == ["expected memory"] + ["layers"] * 4


def test_the_codes_of_a_calibration_are_those_of_the_artifact(small: Path, made: Callable[..., Path], tmp_path: Path):
    folder = made(precision="w8a8-static")
    stored = load_file(folder / "layers" / "00001.safetensors")
    export(small, tmp_path / "out", replace(OPTIONS, precision="w8a8-static", calibration=folder))
    model = onnx.load(tmp_path / "out" / "model.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    name = "model.layers.1.mlp.down_proj.weight"
    assert np.array_equal(arrays[f"{name}.columns"], stored[f"{name}.codes"].T)
    assert np.array_equal(arrays[f"{name}.scales"], stored[f"{name}.scales"])
    assert any(array.shape == () and array == stored[f"{name}.activation_scale"][0] for array in arrays.values())


def test_smoothed_tensors_replace_those_of_the_checkpoint(small: Path, made: Callable[..., Path]):
    folder = made(switches=replace(FAST.switches, smoothing=True))
    with Checkpoint.open(small) as source, Calibration(folder) as calibration:
        rows, plain = row_reader(source, calibration), row_reader(source, None)
        changed = [name for name in source.tensors if calibration.replaced(name) is not None]
        assert changed
        for name in source.tensors:
            same = np.array_equal(rows(name, 1, 5), plain(name, 1, 5))
            assert same == (name not in changed)
            assert np.array_equal(plain(name, 1, 5), source.rows(name, 1, 5))


def test_an_interrupted_export_goes_on_with_its_calibration(small: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export(small, out, OPTIONS, progress=Story(3))
    assert not out.exists()
    story = Story()
    export(small, out, OPTIONS, progress=story)
    assert story.told[1:] == [("resumed", 1), ("layers", 3), ("layers", 4)]
    assert beside(out) == {"out"}


def test_a_recipe_that_needs_no_calibration_takes_none(small: Path, made: Callable[..., Path], tmp_path: Path):
    for precision in ("fp32", "fp16", "int8", "int4"):
        for calibration in (made(), TEXT, "default"):
            refuse(
                "rounds without a calibration", small, tmp_path / "out", precision=precision, calibration=calibration
            )
    plain = ExportOptions(precision="int8")
    with (
        Checkpoint.open(small) as source,
        open_calibration(source, tmp_path / "out", plain, Story().calibration) as none,
    ):
        assert none is None


def test_a_recipe_that_needs_a_calibration_says_so(small: Path, tmp_path: Path):
    for precision in ("w8a8", "w8a8-static", "int4-calibrated", "int8-calibrated", "auto"):
        refuse("needs text: add --calibration", small, tmp_path / "out", precision=precision, calibration=None)
    refuse("an int8 cache needs text", small, tmp_path / "out", precision="fp32", calibration=None, kv_cache="int8")


def test_the_calibration_of_another_recipe_is_refused(small: Path, made: Callable[..., Path], tmp_path: Path):
    words = "calibrated for recipe w8a8, the export asks for w8a8-static"
    refuse(words, small, tmp_path / "out", calibration=made(), precision="w8a8-static")
    four = made(precision="int4-calibrated")
    words = "for recipe int4-calibrated with another block size"
    refuse(words, small, tmp_path / "out", calibration=four, precision="int4-calibrated", block_size=16)


def test_a_recipe_file_that_was_changed_since_is_refused(small: Path, made: Callable[..., Path], tmp_path: Path):
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps({"base": "w8a8", "overrides": {"*.o_proj.weight": "int8"}}))
    folder = made(precision=str(recipe))
    export(small, tmp_path.parent / f"{tmp_path.name}-out", replace(OPTIONS, calibration=folder, precision=str(recipe)))
    recipe.write_text(json.dumps({"base": "w8a8", "overrides": {"*.o_proj.weight": "fp32"}}))
    refuse("other overrides", small, tmp_path / "out", calibration=folder, precision=str(recipe))


def test_formats_may_differ_within_one_tap(small: Path, tmp_path: Path):
    recipe = tmp_path / "mine.json"
    overrides = {"*.q_proj.weight": "fp32", "*.up_proj.weight": "int4", "*.1.self_attn.v_proj.weight": "int8"}
    for base in ("w8a8", "w8a8-static"):
        recipe.write_text(json.dumps({"base": base, "overrides": overrides}))
        options = replace(OPTIONS, precision=str(recipe), calibration_without=("exceptions",), layers=2)
        export(small, tmp_path / base, options)
        ops = [node.op_type for node in onnx.load(tmp_path / base / "model.onnx", load_external_data=False).graph.node]
        assert ops.count("MatMulNBits") == 2 + 1 + 1 and ops.count("MatMulIntegerToFloat") >= 7


def test_any_calibration_serves_an_int8_cache(small: Path, made: Callable[..., Path], tmp_path: Path):
    options = replace(OPTIONS, precision="fp32", calibration=made(), kv_cache="int8")
    assert export(small, tmp_path / "out", options).manifest.cache.dtype == "int8"
    story = Story()
    export(small, tmp_path / "own", replace(options, calibration=TEXT), progress=story)
    assert [phase for phase, _ in story.told] == ["expected memory"] + ["layers"] * 4
    with calibrate(small, tmp_path / "alone", replace(FAST, precision="fp32")) as calibration:
        assert set(load_file(calibration.folder / "layers" / "00000.safetensors")) == {"cache.0.key", "cache.0.value"}
        assert calibration.facts["linears"] == [] and calibration.facts["layer_errors"] == [None, None]


def test_a_calibration_of_another_checkpoint_or_of_fewer_layers(small: Path, made: Callable[..., Path], tmp_path: Path):
    other = Path(shutil.copytree(small, tmp_path / "other"))
    export(other, tmp_path / "same", replace(OPTIONS, calibration=made()))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][3] *= 2
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    for checkpoint, folder, words in (
        (other, made(), "another checkpoint"),
        (small, made(layers=1), "holds 1 layers, 2 are asked for"),
    ):
        with pytest.raises(BadInputError, match=words):
            export(checkpoint, tmp_path / "out", replace(OPTIONS, calibration=folder))
        assert not (tmp_path / "out").exists()


def test_what_is_neither_a_calibration_nor_a_text(small: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refuse("is a folder without calibration.json", small, tmp_path / "out", calibration=tmp_path / "empty")
    refuse("none.txt", small, tmp_path / "out", calibration=tmp_path / "none.txt")
    refuse("'rotation' is no step", small, tmp_path / "out", calibration_without=("rotation",))
    (tmp_path / "text.txt").write_text("too short")
    refuse("found 0 of 2 samples", small, tmp_path / "out", calibration=tmp_path / "text.txt")


def test_an_artifact_that_fails_its_gate_leaves_nothing_at_the_output(small: Path, tmp_path: Path):
    def verifier(folder: Path) -> Any:
        raise GateFailedError("too far")

    with pytest.raises(GateFailedError):
        export(small, tmp_path / "out", OPTIONS, verifier=verifier)
    assert not (tmp_path / "out").exists()


def test_the_calibration_of_a_failed_export_serves_the_next(small: Path, tmp_path: Path):
    def fails(folder: Path) -> Accuracy:
        return Accuracy("strict", False, {}, ["too far"])

    with pytest.raises(GateFailedError):
        export(small, tmp_path / "out", OPTIONS, verifier=fails)
    second = Story()
    export(small, tmp_path / "out", OPTIONS, progress=second)
    assert not [phase for phase, _ in second.told if phase == "layers"]
    export(small, tmp_path / "direct", OPTIONS)
    assert content(tmp_path / "out") == content(tmp_path / "direct")
    assert not (tmp_path / ".out.calibration").exists()


def test_the_calibration_of_a_failed_export_with_other_options_is_made_anew(small: Path, tmp_path: Path):
    def fails(folder: Path) -> Accuracy:
        return Accuracy("strict", False, {}, ["too far"])

    with pytest.raises(GateFailedError):
        export(small, tmp_path / "out", replace(OPTIONS, calibration_samples=1), verifier=fails)
    second = Story()
    export(small, tmp_path / "out", OPTIONS, progress=second)
    assert [phase for phase, _ in second.told if phase == "layers"]
