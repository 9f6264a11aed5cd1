"""A finished calibration: what it reads back, and which checkpoints and exports it belongs to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shapes import write_shape

from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.result import Calibration, layer_file
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError

OPTIONS = CalibrationOptions(
    precision="w8a8-static", text=Path(__file__), samples=2, length=16, threads=1, switches=Switches(exceptions=False)
)
DOWN = "model.layers.0.mlp.down_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("odd_sizes", tmp_path_factory.mktemp("result") / "checkpoint")


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration; tests must not change it."""
    out = tmp_path_factory.mktemp("result") / "calibration"
    calibrate(checkpoint, out, OPTIONS).close()
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "calibration"))


def test_what_was_stored_is_read_back(made: Path):
    stored = load_file(made / "layers" / layer_file(0))
    with Calibration(made) as calibration:
        linear = calibration.linear(DOWN)
        assert linear is not None and linear.exact_columns == () and linear.exact is None
        codes, scales = linear.read(0, 40)
        assert codes.tobytes() == stored[f"{DOWN}.codes"].tobytes() and codes.dtype == np.int8
        assert scales.tobytes() == stored[f"{DOWN}.scales"].tobytes()
        some, few = linear.read(7, 11)
        assert np.array_equal(some, codes[7:11]) and np.array_equal(few, scales[7:11])
        assert linear.activation_scale == float(stored[f"{DOWN}.activation_scale"][0])
        assert calibration.linear("model.embed_tokens.weight") is None
        assert calibration.replaced(DOWN) is None
        assert calibration.replaced(NORM) is not None
        assert np.array_equal(calibration.read_replaced(NORM, 3, 9), stored[NORM][3:9])
        scales_of = calibration.kv_scales(3)
        assert set(scales_of) == {0, 1, 2}
        assert np.array_equal(scales_of[0].key, stored["cache.0.key"])
        assert np.array_equal(scales_of[0].value, stored["cache.0.value"])


def test_exact_columns_are_read_back(copy: Path):
    place = copy / "layers" / layer_file(0)
    arrays = load_file(place)
    arrays[f"{DOWN}.exact_columns"] = np.array([2, 5])
    arrays[f"{DOWN}.exact_weights"] = np.arange(80, dtype=np.float32).reshape(40, 2)
    save_file(arrays, place)
    with Calibration(copy) as calibration:
        linear = calibration.linear(DOWN)
        assert linear is not None and linear.exact_columns == (2, 5)
        assert linear.exact is not None and np.array_equal(linear.exact, arrays[f"{DOWN}.exact_weights"])


def test_a_checkpoint_with_one_other_weight_is_refused(made: Path, checkpoint: Path, tmp_path: Path):
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    with Calibration(made) as calibration, Checkpoint.open(other) as same:
        calibration.check_source(same, 3)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][5, 6] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with (
        Calibration(made) as calibration,
        Checkpoint.open(other) as changed,
        pytest.raises(BadInputError, match="another checkpoint"),
    ):
        calibration.check_source(changed, 3)


def test_more_layers_than_were_calibrated_are_refused(checkpoint: Path, tmp_path: Path):
    with (
        calibrate(checkpoint, tmp_path / "two", CalibrationOptions(**{**vars(OPTIONS), "layers": 2})) as calibration,
        Checkpoint.open(checkpoint) as source,
    ):
        for layers in (1, 2):
            calibration.check_source(source, layers)
        with pytest.raises(BadInputError, match="holds 2 layers, 3 are asked for"):
            calibration.check_source(source, 3)
        with pytest.raises(BadInputError, match="no cache scales for layer 2"):
            calibration.kv_scales(3)


def test_exceptions_are_tensors(copy: Path):
    facts = json.loads((copy / "calibration.json").read_text())
    facts["exceptions"] = [DOWN]
    (copy / "calibration.json").write_text(json.dumps(facts))
    with Calibration(copy) as calibration:
        assert calibration.exceptions == (DOWN,) and calibration.recipe == "w8a8-static"
