"""The calibration as a whole: the same bytes twice, going on after an interruption, what it reports and refuses."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_cases import snapshot
from safetensors.numpy import load_file, save_file
from shapes import SMALL, write_shape

from inference_pio.calibration.collect import Collector
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.plan import CalibrationPlan
from inference_pio.calibration.samples import Samples
from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError

SAMPLES, LENGTH, LAYERS = 2, 16, SMALL["num_hidden_layers"]
OFF = Switches(False, False, False, False, False)
FAST = CalibrationOptions(text=Path(__file__), samples=SAMPLES, length=LENGTH, threads=1, switches=OFF)
"""On a text of this file's size; the bundled one takes a moment to read."""
Say = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("odd_sizes", tmp_path_factory.mktemp("pipeline") / "checkpoint")


@pytest.fixture(scope="module")
def fast(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration with FAST; tests must not change it."""
    out = tmp_path_factory.mktemp("pipeline") / "fast"
    calibrate(checkpoint, out, FAST).close()
    return out


class Story:
    """Progress that remembers what it was told, and may end the work after `stop` samples through layers."""

    def __init__(self, stop: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.told: list[tuple[str, int, int]] = []
        self._stop, self._error = stop, error

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.told.append((phase, done, total))
        if phase == "layers" and done == self._stop:
            raise self._error

    def of(self, phase: str) -> list[tuple[int, int]]:
        return [(done, total) for name, done, total in self.told if name == phase]


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name not in ("cache", "home"))


def refuse(words: str, checkpoint: Path, out: Path, error: type[Exception] = BadInputError, **changes: Any) -> None:
    with np.errstate(all="ignore"), pytest.raises(error, match=words) as caught:
        calibrate(checkpoint, out, replace(FAST, **changes))
    assert str(caught.value).isprintable() and not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        replace(FAST, switches=Switches()),
        replace(FAST, precision="w8a8-static", switches=replace(OFF, smoothing=True)),
        replace(FAST, precision="int4-calibrated", switches=Switches(), layers=2),
    ],
    ids=lambda options: options.precision,
)
def test_two_runs_are_the_same_bytes(checkpoint: Path, tmp_path: Path, options: CalibrationOptions):
    for name in ("a", "b"):
        calibrate(checkpoint, tmp_path / name, options).close()
    first = snapshot(tmp_path / "a")
    assert first == snapshot(tmp_path / "b")
    assert set(first) == {"calibration.json"} | {f"layers/{i:05d}.safetensors" for i in range(options.layers or LAYERS)}
    assert beside(tmp_path / "a") == ["a", "b"]


def test_what_stands_in_a_calibration(checkpoint: Path, fast: Path):
    facts = json.loads((fast / "calibration.json").read_text())
    assert (facts["recipe"], facts["layers"], len(facts["layer_errors"])) == ("w8a8", LAYERS, LAYERS)
    assert len(facts["linears"]) == 7 * LAYERS and facts["exceptions"] == []
    assert all(0 < linear["error"] < 0.01 for linear in facts["linears"])
    assert all(linear["error"] == pytest.approx(linear["plain_error"]) for linear in facts["linears"])
    assert all(0 < error < 0.05 for error in facts["layer_errors"])
    assert facts["text"]["name"] == Path(__file__).name and not facts["text"]["default"]
    assert set(facts["source"]) >= {"config.json", "model.safetensors"}
    assert facts["worst"][0] == max(facts["linears"], key=lambda linear: linear["error"])["tensor"]
    assert set(facts["rules"]) == {"layers", "edges", "overrides"}
    arrays = load_file(fast / "layers" / "00001.safetensors")
    assert arrays["cache.1.key"].shape == (2, 16) and arrays["cache.1.key"].dtype == np.float32
    weight = load_file(checkpoint / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    scales = arrays["model.layers.1.mlp.down_proj.weight.scales"]
    assert np.array_equal(scales, np.abs(weight).max(axis=1) / np.float32(127))


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (1, KeyboardInterrupt),
        (SAMPLES, RuntimeError),
        (SAMPLES + 1, RuntimeError),
        (SAMPLES + 2, KeyboardInterrupt),
        (3 * SAMPLES, KeyboardInterrupt),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    checkpoint: Path, fast: Path, tmp_path: Path, stop: int, error: type[BaseException]
):
    out = tmp_path / "out"
    with pytest.raises(error):
        calibrate(checkpoint, out, FAST, progress=Story(stop, error))
    assert beside(out) == [".out.partial"]
    story, finished = Story(), (stop - 1) // SAMPLES
    calibrate(checkpoint, out, FAST, progress=story).close()
    assert story.of("resumed") == ([(finished, LAYERS)] if finished else [])
    total = LAYERS * SAMPLES
    assert story.of("layers") == [(done, total) for done in range(finished * SAMPLES + 1, total + 1)]
    assert snapshot(out) == snapshot(fast) and beside(out) == ["out"]


def test_a_finished_layer_is_not_computed_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    computed: list[int] = []
    real = Collector.calibrate_layer

    def spy(self: Collector, index: int, report: Say) -> Any:
        computed.append(index)
        return real(self, index, report)

    monkeypatch.setattr(Collector, "calibrate_layer", spy)
    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, tmp_path / "out", FAST, progress=Story(2 * SAMPLES + 1))
    monkeypatch.delattr(Samples, "write_embeddings")  # nor are the hidden states that the first layer read
    calibrate(checkpoint, tmp_path / "out", FAST).close()
    assert computed == [0, 1, 2, 2]


def other_recipe(folder: Path, chosen: str) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps({"base": "w8a8", "overrides": {"*.v_proj.weight": chosen}}))
    return str(path)


@pytest.mark.parametrize("change", ["length", "switches", "text", "recipe file"])
def test_other_options_begin_anew(checkpoint: Path, tmp_path: Path, change: str):
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on, and more of them; " * 40)
    options = replace(FAST, text=text, layers=2)
    if change == "recipe file":
        options = replace(options, precision=other_recipe(tmp_path, "int8"))
    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, tmp_path / "out", options, progress=Story(SAMPLES + 1))
    if change == "length":
        options = replace(options, length=LENGTH + 1)
    elif change == "switches":
        options = replace(options, switches=replace(OFF, clipping=True))
    elif change == "text":
        text.write_text("other words, and there are more of those; " * 40)
    else:
        other_recipe(tmp_path, "fp32")
    story = Story()
    calibrate(checkpoint, tmp_path / "out", options, progress=story).close()
    calibrate(checkpoint, tmp_path / "straight", options).close()
    assert story.of("resumed") == [] and story.of("layers")[0][0] == 1
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "straight")


def test_force_keeps_the_old_calibration_until_the_new_one_is_complete(checkpoint: Path, fast: Path, tmp_path: Path):
    out = tmp_path / "out"
    options = replace(FAST, length=LENGTH + 1, layers=1)
    calibrate(checkpoint, out, options).close()
    before = snapshot(out)
    with pytest.raises(BadInputError, match="--force"):
        calibrate(checkpoint, out, FAST)
    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, out, FAST, force=True, progress=Story(SAMPLES * LAYERS))
    assert snapshot(out) == before
    calibrate(checkpoint, out, FAST, force=True).close()
    assert snapshot(out) == snapshot(fast) and beside(out) == ["out"]


def test_force_replaces_nothing_but_calibrations(checkpoint: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInputError, match="replaces only calibrations"):
        calibrate(checkpoint, tmp_path / "out", FAST, force=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work" and beside(tmp_path / "out") == ["out"]


def test_progress_tells_memory_and_text_before_the_layers(checkpoint: Path, tmp_path: Path):
    story = Story()
    calibrate(checkpoint, tmp_path / "out", replace(FAST, layers=1, text="default"), progress=story).close()
    phases = [phase for phase, _, _ in story.told]
    assert phases == ["expected memory", "bundled text"] + ["layers"] * SAMPLES
    assert story.of("expected memory")[0][1] > 100 << 20
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on, and more of them; " * 40)
    story = Story()
    calibrate(checkpoint, tmp_path / "own", replace(FAST, layers=1, text=text), progress=story).close()
    assert story.of("bundled text") == []


def damaged(checkpoint: Path, folder: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> Path:
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", ["model.layers.1.mlp.up_proj.weight", "model.layers.2.input_layernorm.weight"])
def test_weights_that_are_not_finite_are_named(checkpoint: Path, tmp_path: Path, tensor: str, value: float):
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[tensor][3] = value

    refuse(re.escape(tensor), damaged(checkpoint, tmp_path / "c", edit), tmp_path / "out")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("model.layers.1.mlp.down_proj.weight", "layer 1 .*NaN or infinite in sample 0"),
        ("model.layers.1.mlp.gate_proj.weight", "layer 1 .*NaN or infinite in sample 0|layers.1.*down_proj"),
        ("model.layers.2.self_attn.o_proj.weight", "layer 2 .*NaN or infinite in sample 0"),
    ],
)
def test_activations_that_are_not_finite_are_named(checkpoint: Path, tmp_path: Path, tensor: str, words: str):
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[tensor][:] = 3e38

    refuse(words, damaged(checkpoint, tmp_path / "c", edit), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": -3}, "samples"),
        ({"length": 0}, "length"),
        ({"length": -1}, "length"),
        ({"length": 257}, "257 tokens exceed .* context of 256"),
        ({"samples": 10**6, "length": 256}, "found .* of 1000000 samples"),
        ({"layers": 4}, "--layers 4"),
        ({"layers": 0}, "--layers 0"),
        ({"threads": 0}, "--threads"),
        ({"precision": "w9a9"}, "w9a9"),
        ({"block_size": 32}, "--block-size has no meaning"),
        ({"text": "/nonexistent/text.txt"}, "text.txt"),
    ],
)
def test_options_that_do_not_fit(checkpoint: Path, tmp_path: Path, changes: dict[str, Any], words: str):
    refuse(words, checkpoint, tmp_path / "out", **changes)
    assert beside(tmp_path / "out") == []


def test_a_text_that_is_too_short(checkpoint: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("too short")
    refuse("found 0 of 2 samples of 16 tokens", checkpoint, tmp_path / "out", text=tmp_path / "text.txt")


def test_memory_that_does_not_suffice_is_refused_with_the_number(checkpoint: Path, tmp_path: Path):
    with pytest.raises(ResourceLimitError, match=r"needs (\d+)MB .* allows 50MB") as caught:
        calibrate(checkpoint, tmp_path / "out", replace(FAST, max_memory=50_000_000))
    assert caught.value.exit_code == 4 and isinstance(caught.value, InferencePioError)
    found = re.search(r"needs (\d+)MB", str(caught.value))
    assert found is not None and beside(tmp_path / "out") == []
    calibrate(checkpoint, tmp_path / "out", replace(FAST, layers=1, max_memory=int(found[1]) * 10**6)).close()


def test_longer_samples_and_second_order_rounding_need_more_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    from inference_pio.calibration.plan import plan_calibration
    from inference_pio.checkpoint.checkpoint import Checkpoint

    def needs(**changes: Any) -> int:
        with Checkpoint.open(checkpoint) as source:
            plan: CalibrationPlan = plan_calibration(source, replace(FAST, **changes))
            return plan.expected_memory()

    assert needs(length=128) > needs()
    four = {"precision": "int4-calibrated"}
    assert needs(**four, switches=Switches()) > needs() > needs(**four, switches=OFF)  # whose codes are smaller


def test_steps_have_names():
    assert Switches().without(("smoothing", "clipping")) == Switches(smoothing=False, clipping=False)
    with pytest.raises(BadInputError, match="'rotation' is no step"):
        Switches().without(("rotation",))
