"""The step of a static head's input, measured behind the last layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.calibration.choices import TapChoice, choose_step
from inference_pio.calibration.observers import Observer, ObserverKind
from inference_pio.calibration.smoothing import SEARCHED_ROWS
from inference_pio.calibration.statistics import kept_rows
from inference_pio.calibration.taps import Tap
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import W8A8_STATIC
from inference_pio.graphs.rewrites.rewrite import attribute, match_linear, producer
from inference_pio.graphs.weights import Rows, stored_rows


@dataclass(frozen=True)
class Head:
    """The final norm and the head of a canonical decoder."""

    tap: Tap
    norm: Rows
    epsilon: float
    rows: Rows

    @classmethod
    def of(cls, model: ir.Model) -> Head:
        """The layer that makes `logits`; raises BadInputError when no norm stands before it."""
        logits = next(value for value in model.graph.outputs if value.name == "logits")
        node = logits.producer()
        match = None if node is None else match_linear(node)
        norm = None if match is None else producer(match.x, "RMSNormalization")
        if match is None or norm is None or norm.inputs[1] is None:
            raise BadInputError("the model does not fit the recipe: no norm stands before its head")
        rows = stored_rows(match.weight)
        tap = Tap(match.x, (rows.parts[0][0],), rows.tail[0], None)
        return cls(tap, stored_rows(norm.inputs[1]), float(attribute(norm, "epsilon", 1e-5)), rows)

    def step(self, hidden: Iterable[np.ndarray], samples: int, kind: ObserverKind | None) -> float:
        """The step for the normed hidden states, float32 [1, length, C] of each of `samples`.

        It is that of the asked kind, or of the kind with the least error of the logits of some tokens.
        """
        weight_C = self.norm.whole()
        observer = Observer("the head's inputs", self.tap.columns)
        kept = []
        for x_1SC in hidden:
            normed_SC = x_1SC[0] / np.sqrt(np.square(x_1SC[0]).mean(axis=1, keepdims=True) + np.float32(self.epsilon))
            normed_SC *= weight_C
            observer.update(normed_SC)
            kept.append(kept_rows(normed_SC, samples))
        pairs = [(self._some_rows(), W8A8_STATIC)]
        chosen = choose_step(TapChoice.plain(self.tap), observer, kind, np.concatenate(kept), pairs)
        assert chosen.step is not None
        return chosen.step

    def _some_rows(self) -> np.ndarray:
        """At most SEARCHED_ROWS rows of the head, evenly spread."""
        places = np.linspace(0, self.rows.count - 1, min(SEARCHED_ROWS, self.rows.count)).astype(np.int64)
        return np.concatenate([self.rows.read(int(place), int(place) + 1) for place in places])
