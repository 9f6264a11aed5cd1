"""Whether a calibration's files can be what `calibrate` wrote; nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.printable import printable
from inference_pio.checkpoint.safetensors_header import TensorInfo
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import whole_of

_TYPES = {
    "recipe": str,
    "source": dict,
    "layers": int,
    "files": dict,
    "text": dict,
    "rules": dict,
    "exceptions": list,
    "linears": list,
}


def check_facts(facts: Mapping[str, Any], file: Path) -> None:
    """Raise BadInputError naming `file` when what the export reads is missing or of another type."""
    wrong = [name for name, kind in _TYPES.items() if type(facts.get(name)) is not kind]
    if not wrong and facts["layers"] < 1:
        wrong = ["layers"]
    if not wrong and not _are_texts(facts["exceptions"]):
        wrong = ["exceptions"]
    if not wrong and not all(_is_linear(linear) for linear in facts["linears"]):
        wrong = ["linears"]
    if not wrong and not _are_texts(facts.get("images", [])):
        wrong = ["images"]
    if wrong:
        raise BadInputError(f"{file} has no usable {', '.join(wrong)}: it is damaged, calibrate again")


def check_arrays(
    arrays: Mapping[str, TensorInfo], linears: Sequence[Mapping[str, Any]], checkpoint: Mapping[str, TensorInfo]
) -> None:
    """Raise BadInputError unless every rounded linear layer has its arrays, in the shapes of its tensor."""
    for linear in linears:
        name = linear["tensor"]
        found = checkpoint.get(whole_of(name))
        if found is None:
            raise BadInputError(f"the calibration names {printable(name)}, which the checkpoint lacks: calibrate again")
        if not linear["kept_in_float32"] and not _fits(name, found.shape, arrays):
            raise BadInputError(f"the calibration of tensor {printable(name)} is damaged: calibrate again")
    for name, info in arrays.items():
        if name in checkpoint and (info.dtype, info.shape) != ("F32", checkpoint[name].shape):
            raise BadInputError(f"the calibration of tensor {printable(name)} is damaged: calibrate again")


def finite(info: TensorInfo, array: np.ndarray) -> np.ndarray:
    """The array; raises BadInputError when it holds NaN or infinity."""
    if not np.isfinite(array).all():
        raise BadInputError(f"{printable(info.name)} of the calibration is NaN or infinite: calibrate again")
    return array


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_linear(linear: object) -> bool:
    return (
        isinstance(linear, dict)
        and isinstance(linear.get("tensor"), str)
        and isinstance(linear.get("kept_in_float32"), bool)
    )


def _fits(name: str, shape: tuple[int, ...], arrays: Mapping[str, TensorInfo]) -> bool:
    if name.endswith("]"):  # a part of a tensor by head, of which only the step of its input is kept
        step = arrays.get(f"{name}.activation_scale")
        return step is not None and (step.dtype, step.shape) == ("F32", (1,))
    codes, scales = arrays.get(f"{name}.codes"), arrays.get(f"{name}.scales")
    if codes is None or scales is None or scales.dtype != "F32" or len(shape) != 2:
        return False
    if codes.dtype == "I8":
        whole = codes.shape == shape and scales.shape == shape[:1]
    else:
        whole = codes.dtype == "U8" and len(codes.shape) == 3 and scales.shape == codes.shape[:2]
        whole = whole and codes.shape[0] == shape[0]
    columns, exact = arrays.get(f"{name}.exact_columns"), arrays.get(f"{name}.exact_weights")
    if columns is None and exact is None:
        return whole
    if columns is None or exact is None or (columns.dtype, exact.dtype, len(columns.shape)) != ("I64", "F32", 1):
        return False
    return whole and exact.shape == (shape[0], *columns.shape)
