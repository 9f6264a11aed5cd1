"""Linear layers of the w8a8 recipes for a few tokens: codes of activations times codes of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels.driver import DeviceArray, Driver
from inference_pio.runtime.kernels.kernels import Kernels
from inference_pio.runtime.kernels.plans import VECTOR, gemv_plan, pitch_of, quantize_plan


@dataclass(frozen=True)
class Weight:
    """A linear layer: codes int8 [N, pitch], scales float32 [N], bias float32 [N] or None; `columns` codes count."""

    codes: DeviceArray
    scales: DeviceArray
    bias: DeviceArray | None
    columns: int

    @classmethod
    def of(cls, driver: Driver, codes_NK: np.ndarray, scales_N: np.ndarray, bias_N: np.ndarray | None = None) -> Weight:
        """Copy int8 [N, K] and float32 [N] to the GPU; rows are padded to whole vectors."""
        rows, columns = codes_NK.shape
        shapes = [part.shape for part in (scales_N, bias_N) if part is not None]
        if codes_NK.dtype != np.int8 or any(shape != (rows,) for shape in shapes):
            raise BadInputError(f"a weight of {rows} rows needs int8 codes and {rows} scales: export it as w8a8")
        padded = np.pad(codes_NK, ((0, 0), (0, pitch_of(columns) - columns)))
        scales, bias = (None if part is None else np.asarray(part, np.float32) for part in (scales_N, bias_N))
        assert scales is not None
        on_device = None if bias is None else DeviceArray.of(driver, bias)
        return cls(DeviceArray.of(driver, padded), DeviceArray.of(driver, scales), on_device, columns)

    def free(self) -> None:
        """Give the memory back."""
        for array in (self.codes, self.scales, self.bias):
            if array is not None:
                array.free()


@dataclass(frozen=True)
class Tokens:
    """Room for rounded activations: codes int8 [T, pitch], and scales float32 [T], or [1] for a calibrated step."""

    codes: DeviceArray
    scales: DeviceArray
    columns: int
    step: float | None

    @classmethod
    def room(cls, driver: Driver, tokens: int, columns: int, step: float | None = None) -> Tokens:
        """Memory for `tokens` rows; with `step` every token is rounded with it, else with its own largest value."""
        if step is not None and not (np.isfinite(step) and step > 0):
            raise BadInputError(f"a calibrated activation step must be positive and not {step}: calibrate again")
        codes = DeviceArray(driver, (tokens, pitch_of(columns)), np.int8)
        if step is None:
            return cls(codes, DeviceArray(driver, (tokens,), np.float32), columns, None)
        return cls(codes, DeviceArray.of(driver, np.array([step], np.float32)), columns, float(step))

    def free(self) -> None:
        """Give the memory back."""
        self.codes.free()
        self.scales.free()


def quantize(kernels: Kernels, x_TK: DeviceArray, tokens: Tokens) -> None:
    """Round float32 [T, K] into `tokens`; a row with NaN or infinity gives NaN products, unless the step is fixed."""
    count, pitch = tokens.codes.shape
    x_TK.expect("activations", (count, tokens.columns), np.float32)
    plan = quantize_plan(count, tokens.step is not None)
    second = tokens.scales if tokens.step is None else tokens.step
    kernels.launch(plan, x_TK, tokens.codes, second, tokens.columns, pitch)


def multiply(kernels: Kernels, tokens: Tokens, weight: Weight, y_TN: DeviceArray) -> None:
    """y float32 [T, N] = the tokens times the weight, scaled, plus the bias; for 1 to 8 tokens."""
    (count, pitch), rows = tokens.codes.shape, weight.codes.shape[0]
    if tokens.columns != weight.columns:
        raise BadInputError(f"tokens of {tokens.columns} values do not fit a weight of {weight.columns} columns")
    y_TN.expect("the product", (count, rows), np.float32)
    operands = (tokens.codes, tokens.scales, int(tokens.step is None), weight.codes, weight.scales, weight.bias)
    kernels.launch(gemv_plan(count, rows), *operands, y_TN, count, rows, pitch // VECTOR)
