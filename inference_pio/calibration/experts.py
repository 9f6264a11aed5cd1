"""The experts of a layer, calibrated one after the other on the tokens that the router sends to each.

A layer's graph runs without them; what they read lies on disk, and what they add is added to the next layer's hidden
states there. In memory are one expert's weights and statistics, and the codes of those that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from inference_pio.calibration.choices import choose, fold
from inference_pio.calibration.hidden_states import HiddenStates
from inference_pio.calibration.layer import LayerResult, emit
from inference_pio.calibration.options import Switches
from inference_pio.calibration.products import Input, dequantized, relative_error, round_weight, rounded_input
from inference_pio.calibration.routing import Experts
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import Absorber, Tap
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FormatOf, WeightFormat

CHUNK_TOKENS = 4096
"""Tokens that an expert computes at a time."""


@dataclass(frozen=True)
class ExpertsResult:
    """Arrays and linear layers as in `LayerResult`, and how many tokens each expert saw.

    `found` is what the rounded experts add to the judged tokens, float32 [judged, C].
    """

    arrays: dict[str, np.ndarray]
    linears: list[dict[str, Any]]
    tokens: list[int]
    found: np.ndarray


def calibrate_experts(
    experts: Experts,
    x_TC: HiddenStates,
    out_TC: HiddenStates,
    judged: int,
    format_of: FormatOf | None,
    switches: Switches,
    report: Callable[[int], None],
) -> ExpertsResult:
    """Round every expert and add to `out_TC` what the experts, exact, add to the tokens that read `x_TC`.

    `judged` tokens, the first ones, also pass the rounded experts. `format_of` is None where nothing is rounded. An
    expert that sees no token is rounded to nearest. `report` is told the number of every finished expert.
    Raises BadInputError when an expert's output is not finite.
    """
    index_TK, weights_TK = _routes(experts, x_TC)
    result = ExpertsResult({}, [], [], np.zeros((judged, x_TC.shape[1]), np.float32))
    for expert in range(experts.count):
        tokens, place = np.nonzero(index_TK == expert)
        share_T = weights_TK[tokens, place]
        weights = experts.weights(expert)
        taps = _taps(weights)
        kinds = _formats(experts, weights, format_of)
        some = bool(len(tokens)) and any(chosen.quantized for chosen in kinds.values())
        statistics = _run(weights, taps, x_TC, out_TC, tokens, share_T, kinds if some else None, switches)
        result.tokens.append(len(tokens))
        report(expert)
        if not any(chosen.quantized for chosen in kinds.values()):
            continue
        rounded = _round(statistics, weights, kinds, switches) if some else _unseen(weights, kinds)
        result.arrays.update(rounded.arrays)
        result.linears.extend(rounded.linears)
        first = tokens < judged
        for rows in _chunks(np.flatnonzero(first)):
            seen = _rounded_output(rounded.weights, kinds, x_TC[tokens[rows]])
            result.found[tokens[rows]] += share_T[rows, None] * seen
    return result


def _routes(experts: Experts, x_TC: HiddenStates) -> tuple[np.ndarray, np.ndarray]:
    found = [experts.route(x_TC[rows]) for rows in _chunks(np.arange(len(x_TC)))]
    index, weights = zip(*found, strict=True)
    return np.concatenate(index), np.concatenate(weights)


def _taps(weights: Mapping[str, np.ndarray]) -> tuple[Tap, Tap]:
    """What gate and up read, and what down reads, which `up` can absorb factors of."""
    gate, up, down = weights
    width, hidden = weights[up].shape
    inner = Absorber((up,), np.arange(width))
    value = ir.Value(name=gate)
    return Tap(value, (gate, up), hidden, None), Tap(value, (down,), width, inner)


def _formats(
    experts: Experts, weights: Mapping[str, np.ndarray], format_of: FormatOf | None
) -> dict[str, WeightFormat]:
    """The formats of an expert's tensors as its operator has them: one block size for all, or whole rows."""
    if format_of is None:
        return {}
    found = {}
    for name, rows_NK in weights.items():
        chosen = format_of(name).for_experts()
        block = chosen.expert_block(experts.gate.tail[0], experts.down.tail[0])
        found[name] = replace(chosen, block_size=block or rows_NK.shape[1]) if chosen.quantized else chosen
    return found


def _run(
    weights: Mapping[str, np.ndarray],
    taps: tuple[Tap, Tap],
    x_TC: HiddenStates,
    out_TC: HiddenStates,
    tokens: np.ndarray,
    share_T: np.ndarray,
    kinds: Mapping[str, WeightFormat] | None,
    switches: Switches,
) -> list[TapStatistics]:
    """One expert over its tokens; statistics of its two inputs where `kinds` asks for them."""
    gate, up, down = weights.values()
    chunks = list(_chunks(np.arange(len(tokens))))
    statistics = []
    if kinds is not None:
        four = switches.second_order and any(chosen.bits == 4 for chosen in kinds.values())
        statistics = [TapStatistics(tap, len(chunks), four) for tap in taps]
    for rows in chunks:
        own_NC = x_TC[tokens[rows]]
        inner_NF = _inner(own_NC, gate, up)
        with np.errstate(over="ignore", invalid="ignore"):  # judged below
            added_NC = share_T[rows, None] * (inner_NF @ down.T)
        if not np.isfinite(added_NC).all():
            raise BadInputError(
                f"'{next(iter(weights))}' and its like give activations that are NaN or infinite: check the checkpoint "
                "and the calibration text"
            )
        out_TC[tokens[rows]] += added_NC
        for stats, seen in zip(statistics, (own_NC, inner_NF), strict=False):
            stats.update(seen)
    return statistics


def _round(
    statistics: list[TapStatistics],
    weights: dict[str, np.ndarray],
    kinds: Mapping[str, WeightFormat],
    switches: Switches,
) -> LayerResult:
    choices = choose(statistics, weights, kinds.__getitem__, switches)
    fold(weights, choices)
    return emit(statistics, choices, weights, kinds.__getitem__, replace(switches, exceptions=False))


def _unseen(weights: Mapping[str, np.ndarray], kinds: Mapping[str, WeightFormat]) -> LayerResult:
    """Plain rounding, for want of anything to go by."""
    result = LayerResult()
    for name, rows_NK in weights.items():
        codes, scales = round_weight(rows_NK, kinds[name], False, None)
        result.arrays |= {f"{name}.codes": codes, f"{name}.scales": scales}
        found_NK = dequantized(codes, scales, kinds[name], rows_NK.shape[1])
        error = relative_error(rows_NK, found_NK)
        facts = {"error": error, "plain_error": error, "smoothing": None, "exact_columns": 0, "observer": None}
        result.linears.append({"tensor": name, **facts, "kept_in_float32": False})
    return result


def _rounded_output(
    weights: Mapping[str, np.ndarray], kinds: Mapping[str, WeightFormat], x_NC: np.ndarray
) -> np.ndarray:
    """What a rounded expert gives, float32 [N, C]; smoothing stands in its weights already."""
    names = list(kinds)
    gate, up, down = (weights[name] for name in names)
    seen_NC = rounded_input(x_NC, Input(np.ones(x_NC.shape[1], np.float32)), kinds[names[0]])
    inner_NF = _inner(seen_NC, gate, up)
    ones_F = np.ones(inner_NF.shape[1], np.float32)
    found: np.ndarray = rounded_input(inner_NF, Input(ones_F), kinds[names[2]]) @ down.T
    return found


def _inner(x_NC: np.ndarray, gate_FC: np.ndarray, up_FC: np.ndarray) -> np.ndarray:
    """`silu(gate(x)) * up(x)`, what down reads: float32 [N, F]."""
    gate_NF = x_NC @ gate_FC.T
    with np.errstate(over="ignore"):
        open_NF = gate_NF / (1 + np.exp(-gate_NF))
    found: np.ndarray = open_NF * (x_NC @ up_FC.T)
    return found


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CHUNK_TOKENS):
        yield rows[start : start + CHUNK_TOKENS]
