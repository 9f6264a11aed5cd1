"""The experts of a layer as the canonical graph calls them: their weights, and which tokens each of them gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.graphs.blocks.moe import NAMES
from inference_pio.graphs.rewrites.rewrite import attribute
from inference_pio.graphs.spec import Scoring
from inference_pio.graphs.weights import Rows, stored_rows


@dataclass(frozen=True)
class Experts:
    """The experts of one layer as the canonical graph calls them: see `graphs.blocks.moe`."""

    scoring: Scoring
    router: Rows
    bias: Rows | None
    gate: Rows
    up: Rows
    down: Rows
    active: int
    normalize: bool
    scale: float

    @classmethod
    def of(cls, node: ir.Node) -> Experts:
        """Those that `node`, a call of a function of `graphs.blocks.moe`, computes."""
        _, router, *bias, gate, up, down = (stored_rows(v) if i else None for i, v in enumerate(node.inputs) if v)
        assert router is not None and gate is not None and up is not None and down is not None
        return cls(
            scoring=next(scoring for scoring, name in NAMES.items() if name == node.op_type),
            router=router,
            bias=bias[0] if bias else None,
            gate=gate,
            up=up,
            down=down,
            active=int(attribute(node, "top_k")[0]),
            normalize=bool(attribute(node, "normalize")),
            scale=float(attribute(node, "scale")),
        )

    @property
    def count(self) -> int:
        return len(self.down.parts)

    def weights(self, expert: int) -> dict[str, np.ndarray]:
        """An expert's gate, up and down weights, float32 [N, K], by tensor name."""
        found = {}
        for rows in (self.gate, self.up, self.down):
            name, size = rows.parts[expert]
            found[name] = rows.read(expert * size, (expert + 1) * size)
        return found

    def route(self, x_TC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The experts of every token, int64 [T, k], and their weights, float32 [T, k]."""
        logits_TE = x_TC @ self.router.whole().T
        if self.scoring is Scoring.SOFTMAX:
            powers_TE = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
            choice_TE = scores_TE = powers_TE / powers_TE.sum(axis=1, keepdims=True)
        else:
            assert self.bias is not None
            scores_TE = 1 / (1 + np.exp(-logits_TE))
            choice_TE = scores_TE + self.bias.whole()
        index_TK = np.argsort(-choice_TE, axis=1, kind="stable")[:, : self.active]
        weights_TK = np.take_along_axis(scores_TE, index_TK, axis=1)
        if self.normalize:
            weights_TK = weights_TK / (weights_TK.sum(axis=1, keepdims=True) + np.float32(1e-20))
        return index_TK, weights_TK * np.float32(self.scale)
