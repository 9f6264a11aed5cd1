"""GPTQ: rounding that lets later columns of a weight make up for the errors of earlier ones.

Frantar et al. 2022, arXiv:2210.17323, in the form of Chee et al. 2023, arXiv:2307.13304 (theorem 6: the same numbers).
With the layer's H = X^T X = (I + F) D (I + F)^T, F strictly upper triangular and D diagonal, column k is rounded to
the level nearest to w_k + sum over i < k of (w_i - q_i) F_ik, which minimizes what it adds to ||X (W - Q)^T||^2. This
needs one Cholesky factor and no inverse, and no weight but the one at hand is ever updated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.graphs.rounding import block_scales, in_blocks, inverse_of, levels_of, pack

ROWS = 1024
"""Rows worked on at once; they take about 10 bytes per element besides the result."""
_COLUMNS = 128
"""Columns that get the feedback of all earlier ones in one product."""
FLOAT64_COLUMNS = 4096
"""Up to here X^T X is gathered and factored in float64; above, its memory would double."""
PANEL = 512
"""Columns factored at once."""
_DAMPING = 0.01
"""What is added to the diagonal at first, as a share of its mean."""


@dataclass(frozen=True)
class Feedback:
    """What GPTQ needs to know of a layer's inputs: computed once, shared by all weights and chunks of rows.

    `factor_KK` float32: F above the diagonal, 1 on it, 0 below. `order_K` int64: the columns in the order they are
    rounded, which is that of the factor: those with the largest inputs first. `importance_K` float32, in the natural
    order: D, what a squared error of each column costs once later ones have made up for it; 0 for inactive ones.
    """

    factor_KK: np.ndarray  # noqa: N815
    importance_K: np.ndarray  # noqa: N815
    order_K: np.ndarray  # noqa: N815

    @classmethod
    def of(cls, gram_KK: np.ndarray) -> Feedback:
        """From X^T X, float32 or float64 [K, K].

        A hundredth of the diagonal's mean is added to it, and ten times more until the matrix is positive definite.
        Channels that were never active (diagonal 0) neither give nor take feedback. Needs memory for the factor, which
        is float64 up to 4096 columns, and a few panels of it. Raises BadInputError for a matrix that cannot be X^T X.
        """
        if gram_KK.ndim != 2 or gram_KK.shape[0] != gram_KK.shape[1]:
            raise BadInputError(f"the gram matrix has shape {list(gram_KK.shape)}: give X^T X, which is square")
        with np.errstate(invalid="ignore"):
            total = float(gram_KK.sum(dtype=np.float64))
        if not math.isfinite(total):
            raise BadInputError("the gram matrix has NaN or infinity: check the checkpoint and the calibration text")
        diagonal_K = np.maximum(gram_KK.diagonal(), 0).astype(np.float64)
        order_K, damping = np.argsort(-diagonal_K, kind="stable"), _DAMPING
        while damping < 1e9:
            factor_KK = _damped(gram_KK, order_K, damping * float(diagonal_K.mean()))
            costs = _factor_in_place(factor_KK)
            if costs is not None:
                importance_K = np.empty(len(diagonal_K), np.float32)
                importance_K[order_K] = costs
                importance_K[diagonal_K == 0] = 0
                return cls(factor_KK.astype(np.float32, copy=False), importance_K, order_K)
            del factor_KK
            damping *= 10
        raise BadInputError("the gram matrix is not positive definite, however damped: give X^T X of the inputs")

    def round_blocks(self, rows_NK: np.ndarray, bits: int, block: int, clip: bool) -> tuple[np.ndarray, np.ndarray]:
        """GPTQ of float32 rows in blocks; the result as from `graphs.rounding.round_blocks`.

        It equals that for uncorrelated inputs. A block's scale comes from its weights alone; with `clip` it is searched
        as in `round_blocks`, weighted by what an error costs after the feedback. Raises BadInputError as that does, and
        for rows of another length. Deterministic for the same rows and threads.
        """
        if rows_NK.shape[1:] != self.importance_K.shape:
            raise BadInputError(
                f"weights {list(rows_NK.shape)} do not fit a gram matrix of {len(self.importance_K)} input channels: "
                "give the inputs of this layer"
            )
        results = [self._chunk(rows_NK[i : i + ROWS], bits, block, clip) for i in range(0, len(rows_NK), ROWS)]
        return np.concatenate([data for data, _ in results]), np.concatenate([scales for _, scales in results])

    def _chunk(self, rows_NK: np.ndarray, bits: int, block: int, clip: bool) -> tuple[np.ndarray, np.ndarray]:
        """One chunk of `round_blocks`."""
        importance_BL = in_blocks(self.importance_K[None], bits, block)[0]
        scales_NB = block_scales(in_blocks(rows_NK, bits, block), bits, clip, importance_BL)
        levels_NBL = in_blocks(self._levels(rows_NK, scales_NB, bits, block), bits, block)
        return pack(levels_NBL.view(np.uint8) + np.uint8(1 << (bits - 1)), bits), scales_NB

    def _levels(self, rows_NK: np.ndarray, scales_NB: np.ndarray, bits: int, block: int) -> np.ndarray:
        """Levels int8 [N, K], some columns with known feedback from all before them at a time."""
        half = 1 << (bits - 1)
        w_KN = np.ascontiguousarray(rows_NK.T[self.order_K])
        error_KN = np.empty_like(w_KN)
        found = np.empty(rows_NK.shape, np.int8)
        for first in range(0, len(w_KN), _COLUMNS):
            last = min(first + _COLUMNS, len(w_KN))
            target = self.factor_KK[:first, first:last].T @ error_KN[:first]
            target += w_KN[first:last]
            scale = scales_NB.T[self.order_K[first:last] // block]
            inverse = inverse_of(scale)
            within = np.ascontiguousarray(self.factor_KK[first:last, first:last].T)
            for k in range(last - first):
                target[k] += within[k, :k] @ error_KN[first : first + k]
                target[k] = levels_of(target[k], inverse[k], -half, half - 1)
                np.subtract(w_KN[first + k], target[k] * scale[k], out=error_KN[first + k])
            found[:, self.order_K[first:last]] = target.T
        return found


def gram_dtype(columns: int) -> np.dtype[Any]:
    """The type of X^T X of so many columns."""
    return np.dtype(np.float64 if columns <= FLOAT64_COLUMNS else np.float32)


def _damped(gram_KK: np.ndarray, order_K: np.ndarray, extra: float) -> np.ndarray:
    """A copy in the order of rounding with `extra` on the diagonal; inactive channels as in the identity."""
    size = len(gram_KK)
    matrix = np.empty((size, size), gram_dtype(size))
    for row, source in enumerate(order_K):
        matrix[row] = gram_KK[source, order_K]
    diagonal: np.ndarray = matrix.reshape(-1)[:: size + 1]
    inactive = np.asarray(diagonal <= 0)
    diagonal += extra
    matrix[inactive] = 0
    matrix[:, inactive] = 0
    diagonal[inactive] = 1
    return matrix


def _factor_in_place(matrix: np.ndarray) -> np.ndarray | None:
    """Makes I + F of H = (I + F) D (I + F)^T in panels from the last and returns D; None if H has no such factor."""
    costs = np.empty(len(matrix), matrix.dtype)
    for last in range(len(matrix), 0, -PANEL):
        first = max(last - PANEL, 0)
        try:
            corner = np.linalg.cholesky(matrix[first:last, first:last][::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            return None
        above = np.linalg.solve(corner, matrix[:first, first:last].T).T
        for start in range(0, first, PANEL):
            stop = min(start + PANEL, first)
            matrix[:stop, start:stop] -= above[:stop] @ above[start:stop].T
        matrix[:first, first:last] = above
        matrix[first:last, first:last] = corner
        matrix[last:, first:last] = 0
        matrix[:last, first:last] /= corner.diagonal()
        costs[first:last] = corner.diagonal() ** 2
    return costs if math.isfinite(float(matrix.sum(dtype=np.float64))) else None
