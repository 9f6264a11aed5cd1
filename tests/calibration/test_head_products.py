"""Steps of products with a weight per head: what is observed, what is chosen, and what a calibration stores."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inference_pio.calibration import head_products as module
from inference_pio.calibration.head_products import HeadStatistics, HeadTap, calibrate_heads, find_head_taps
from inference_pio.calibration.layer_graphs import cut
from inference_pio.calibration.observers import ObserverKind
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.result import Calibration, layer_file
from inference_pio.calibration.taps import Tap
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP32, W8A8_STATIC

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import export_blocks
from graph_cases import canonical as grouped
from latent_cases import MLA, canonical
from shapes import write_shape

HEADS, KEY, VALUE = 3, "w[key]", "w[value]"
OPTIONS = CalibrationOptions(
    precision="w8a8-static",
    target="tensorrt",
    hardware="sm61",
    text=Path(__file__),
    samples=2,
    length=16,
    threads=1,
    switches=Switches(False, False, False, False, True),
)


def x_HSK(seed: int) -> np.ndarray:
    """float32 [3, 40, 8]; the last head's values are much larger than those of the others."""
    values = np.random.default_rng(seed).normal(size=(HEADS, 40, 8)).astype(np.float32)
    values[2] *= 10
    return values


def observed(name: str, transposed: bool, samples: int = 2) -> HeadStatistics:
    tap = Tap(None, (name,), HEADS * 8, None)  # type: ignore[arg-type]
    stats = HeadStatistics(HeadTap(tap, "w", f"{name}.initializer", HEADS, transposed), samples)
    for sample in range(samples):
        stats.update(x_HSK(sample))
    return stats


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    shapes = {KEY: (HEADS, 8, 12), VALUE: (HEADS, 6, 8)}
    return {f"{name}.initializer": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def chosen(kind: ObserverKind | None = None, exceptions: bool = True):
    stats = [observed(KEY, False), observed(VALUE, True)]
    return calibrate_heads(stats, weights(), lambda name: W8A8_STATIC, kind, exceptions)


def test_both_products_of_a_layer_are_observed():
    layer = cut(canonical()).layers[1]
    key, value = find_head_taps(layer)
    name = "model.layers.1.self_attn.kv_b_proj"
    assert (key.tap.name, value.tap.name) == (f"{name}.weight[key]", f"{name}.weight[value]")
    assert (key.weight, value.weight) == (f"{name}.key", f"{name}.value")
    assert key.tensor == value.tensor == f"{name}.weight"
    assert (key.transposed, value.transposed) == (False, True)
    assert (key.tap.columns, value.tap.columns) == (3 * MLA.nope_dim, 3 * MLA.kv_rank)
    assert find_head_taps(cut(grouped()).layers[0]) == []


def test_the_widest_step_covers_all_heads():
    result = chosen(ObserverKind.MIN_MAX)
    largest = max(np.abs(x_HSK(sample)).max() for sample in range(2))
    assert {name: float(step[0]) for name, step in result.arrays.items()} == {
        f"{name}.activation_scale": pytest.approx(largest / 127) for name in (KEY, VALUE)
    }
    assert set(result.steps) == set(result.weights) == set(weights())


def test_the_error_is_that_of_the_products():
    """In float64, head by head, over every row that was seen."""
    result = chosen(ObserverKind.MIN_MAX)
    x = np.concatenate([x_HSK(sample) for sample in range(2)], axis=1).astype(np.float64)
    for name, subscripts in ((KEY, "htk,hkn->htn"), (VALUE, "htk,hnk->htn")):
        weight, found = weights()[f"{name}.initializer"], result.weights[f"{name}.initializer"]
        channels = -1 if name == VALUE else -2
        scales = np.abs(weight).max(axis=channels, keepdims=True) / 127
        assert 0 < np.abs(weight - found).max() < 0.51 * scales.max()
        assert np.allclose(found / scales, np.rint(found / scales), atol=1e-3)
        step = result.steps[f"{name}.initializer"]
        exact = np.einsum(subscripts, x, weight)
        rounded = np.einsum(subscripts, np.rint(x / step) * step, found)
        facts = next(linear for linear in result.linears if linear["tensor"] == name)
        assert facts["error"] == pytest.approx(np.square(rounded - exact).sum() / np.square(exact).sum(), rel=1e-2)
        assert facts["plain_error"] == pytest.approx(facts["error"])


def test_without_a_wish_the_kind_with_the_least_error_is_taken():
    errors = {kind: [linear["error"] for linear in chosen(kind).linears] for kind in (None, *ObserverKind)}
    assert errors[None] == [min(errors[kind][part] for kind in ObserverKind) for part in range(2)]


@pytest.mark.parametrize("exceptions", [True, False])
def test_one_failing_part_keeps_the_tensor_in_float32(monkeypatch, exceptions):
    first, second = sorted(linear["error"] for linear in chosen().linears)
    monkeypatch.setattr(module, "WORST_ERROR", (first + second) / 2)
    result = chosen(exceptions=exceptions)
    assert result.exceptions == (["w"] if exceptions else [])
    assert [linear["kept_in_float32"] for linear in result.linears] == [exceptions] * 2
    assert len(result.arrays) == len(result.steps) == len(result.weights) == (0 if exceptions else 2)


def test_tensors_of_other_formats_are_not_judged():
    result = calibrate_heads([observed(KEY, False)], weights(), lambda name: FP32, None, True)
    assert (result.linears, result.arrays) == ([], {})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("glm_dense", tmp_path_factory.mktemp("heads") / "checkpoint")


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration; tests must not change it."""
    out = tmp_path_factory.mktemp("heads") / "calibration"
    calibrate(checkpoint, out, OPTIONS).close()
    return out


def by_head(folder: Path) -> list[str]:
    arrays = [name for file in sorted((folder / "layers").iterdir()) for name in load_file(file)]
    return [name for name in arrays if "kv_b_proj" in name]


def test_a_calibration_holds_two_steps_per_layer(made):
    facts = json.loads((made / "calibration.json").read_text())
    names = [
        f"model.layers.{layer}.self_attn.kv_b_proj.weight[{part}]" for layer in range(3) for part in ("key", "value")
    ]
    assert sorted(by_head(made)) == [f"{name}.activation_scale" for name in names]
    linears = {linear["tensor"]: linear for linear in facts["linears"]}
    assert all(0 < linears[name]["error"] < 0.01 for name in names)
    with Calibration(made) as calibration:
        assert calibration.linear(names[0]) is None
        step = load_file(made / "layers" / layer_file(0))[f"{names[0]}.activation_scale"]
        assert calibration.activation_scale(names[0]) == float(step[0])


def test_rounding_by_head_is_part_of_a_layers_error(made, checkpoint, tmp_path):
    recipe = tmp_path / "float.json"
    recipe.write_text(json.dumps({"base": "w8a8-static", "overrides": {"*.kv_b_proj.weight": "fp32"}}))
    calibrate(checkpoint, tmp_path / "float", replace(OPTIONS, precision=str(recipe))).close()
    assert by_head(tmp_path / "float") == []
    rounded, floats = (
        json.loads((folder / "calibration.json").read_text())["layer_errors"] for folder in (made, tmp_path / "float")
    )
    assert all(some > less for some, less in zip(rounded, floats, strict=True))


@pytest.mark.parametrize(
    "change", [{"target": "ort-cpu", "hardware": "auto"}, {"precision": "w8a8", "target": "ort-cpu"}]
)
def test_targets_with_blocks_need_no_steps(checkpoint, tmp_path, change):
    calibrate(checkpoint, tmp_path / "out", replace(OPTIONS, **{"hardware": "auto", **change}, layers=1)).close()
    assert by_head(tmp_path / "out") == []


def test_a_calibration_without_a_step_is_refused(made, checkpoint, tmp_path):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    file = copy / "layers" / layer_file(1)
    arrays = load_file(file)
    save_file({name: array for name, array in arrays.items() if "[value]" not in name}, file)
    with pytest.raises(BadInputError, match=r"layers\.1\.self_attn\.kv_b_proj\.weight\[value\]' is damaged"):
        export_blocks(checkpoint, tmp_path / "out", "w8a8-static", calibration=copy)
