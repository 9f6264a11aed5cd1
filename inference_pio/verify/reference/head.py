"""The head, a chunk of its rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inference_pio.verify.reference.rounding import round_activations
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import ModelWeights

HEAD_BYTES = 64 << 20
"""Float32 bytes of one chunk of the head's rows."""
HEAD_POSITIONS = 1024
"""Positions that one chunk of the head's rows meets at a time."""


class Head:
    """The last linear layer, a chunk of its rows at a time, straight into the sink."""

    def __init__(self, name: str, model: Any, weights: ModelWeights, wanted: list[slice], sink: LogitsFile) -> None:
        """`wanted` are the positions of each row of a batch whose logits count."""
        self._name, self._weights, self._wanted, self._sink = name, weights, wanted, sink
        self._bias = model.lm_head.bias
        self.placeholder = torch.zeros(())

    def run(self, hidden_WSC: torch.Tensor) -> torch.Tensor:
        """Write the logits of the wanted positions; the result only stands for them."""
        hidden_PC = torch.cat([row[positions] for row, positions in zip(hidden_WSC, self._wanted, strict=True)])
        rounding = self._weights.input_rounding(self._name)
        if rounding is not None:
            hidden_PC = round_activations(hidden_PC, rounding)
        step = max(1, HEAD_BYTES // (4 * hidden_PC.shape[1]))
        for start in range(0, self._sink.vocabulary, step):
            stop = min(start + step, self._sink.vocabulary)
            rows_NC = torch.from_numpy(self._weights.rows(self._name, start, stop))
            bias = None if self._bias is None else self._bias[start:stop]
            for first in range(0, len(hidden_PC), HEAD_POSITIONS):
                part = nn.functional.linear(hidden_PC[first : first + HEAD_POSITIONS], rows_NC, bias)
                self._sink.write(first, start, part.numpy())
        return self.placeholder
