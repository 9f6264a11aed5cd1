"""The experts of a layer take the operator of their weights' format: QMoE for integers, MoE for floats.

Both run the experts that some token chose and read nothing of the others. Gate and up lie interleaved, row by row. The
router stays a linear layer by itself. Operators: github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.blocks.linear import matmul_transposed
from inference_pio.graphs.blocks.moe import DOMAIN, NAMES
from inference_pio.graphs.builder import MICROSOFT, GraphBuilder
from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.integers import calibrated_codes
from inference_pio.graphs.quantize import QuantizeRows
from inference_pio.graphs.rewrites.linear_kernels import accuracy
from inference_pio.graphs.rewrites.rewrite import LoweringContext, attribute, replace
from inference_pio.graphs.spec import Scoring
from inference_pio.graphs.weights import Recipe, Rows, StoreRows, holds_rows, stored_rows

SCORINGS = {name: scoring for scoring, name in NAMES.items()}


@dataclass(frozen=True)
class Match:
    """The experts of one layer; `bias` helps a sigmoid router to select."""

    node: ir.Node
    scoring: Scoring
    x: ir.Value
    router: ir.Value
    bias: ir.Value | None
    gate_up: Rows
    down: Rows

    @property
    def count(self) -> int:
        return len(self.down.parts)

    @property
    def prefix(self) -> str:
        """What the names of all experts begin with."""
        return self.down.parts[0][0].rpartition(".experts.")[0] + ".experts"


def pattern(node: ir.Node) -> Match | None:
    """A call of the function `MoESoftmax` or `MoESigmoid` over rows of the checkpoint."""
    if node.domain != DOMAIN or node.op_type not in SCORINGS:
        return None
    x, router, *bias, gate, up, down = node.inputs
    if x is None or router is None or gate is None or up is None or down is None:
        return None
    if not all(holds_rows(weight, rank=2) for weight in (router, gate, up, down)):
        return None
    gate_up = stored_rows(gate).interleave(stored_rows(up))
    return Match(node, SCORINGS[node.op_type], x, router, bias[0] if bias else None, gate_up, stored_rows(down))


def check(match: Match, context: LoweringContext) -> None:
    """Raises BadInputError when the experts would not fit into one operator."""
    names = [name for rows in (match.gate_up, match.down) for name, _ in rows.parts]
    formats = {name: context.format_of(name).for_experts() for name in names}
    first = next(iter(formats))
    other = next((name for name, chosen in formats.items() if chosen != formats[first]), None)
    if other is not None:
        raise BadInputError(
            f"'{first}' would be {formats[first]} and '{other}' {formats[other]}, but one operator holds all experts "
            f"of a layer: give '{match.prefix}.*' one format"
        )
    sizes = match.gate_up.tail[0], match.down.tail[0]
    if formats[first].bits == 4 and any(size % 2 for size in sizes):
        raise BadInputError(f"{match.prefix} has rows of {sizes[0]} and {sizes[1]} elements: 4 bits need even numbers")


def rewrite(graph: ir.Graph, match: Match, context: LoweringContext) -> None:
    b = GraphBuilder(graph)
    chosen = context.format_of(match.down.parts[0][0]).for_experts()
    with b.before(match.node), b.scope(str(match.node.name)):
        logits_BSE = matmul_transposed(b, match.x, match.router)
        logits_TE = b.op("Reshape", [logits_BSE, b.const([-1, match.count])], name="logits")
        experts = _integers if chosen.quantized else _floats
        y_BSC = experts(b, match, logits_TE, chosen, context)
        scale = float(attribute(match.node, "scale", 1.0))
        if scale != 1:
            y_BSC = b.op("Mul", [y_BSC, b.const(scale, np.float32)], name="scaled")
    replace(match.node.outputs[0], y_BSC)
    graph.remove(match.node, safe=True)


def _attributes(match: Match) -> dict[str, object]:
    """SwiGLU as `silu(gate) * up`, and the choice of experts."""
    return {
        "k": attribute(match.node, "top_k")[0],
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
        "normalize_routing_weights": int(attribute(match.node, "normalize")),
    }


def _integers(
    b: GraphBuilder, match: Match, logits_TE: ir.Value, chosen: WeightFormat, context: LoweringContext
) -> ir.Value:
    """`QMoE`, which selects by one matrix [T, E] and mixes by another where there are two."""
    choice_TE, mix_TE = logits_TE, None
    if match.scoring is Scoring.SIGMOID:
        mix_TE = b.op("Sigmoid", [logits_TE], name="scores")
        choice_TE = b.op("Add", [mix_TE, match.bias], name="choice")
    elif not attribute(match.node, "normalize"):  # without a second matrix the operator always normalizes
        mix_TE = b.op("Softmax", [logits_TE], {"axis": -1}, name="scores")
    block = chosen.expert_block(match.gate_up.tail[0], match.down.tail[0])
    attributes = _attributes(match) | {"expert_weight_bits": chosen.bits}
    if block is not None:
        attributes |= {"block_size": block, **accuracy(chosen)}
    if context.kernels.raw_experts:
        attributes["weights_prepacked"] = 0
    weights = [_quantized(b, match, rows, chosen.bits, block, context) for rows in (match.gate_up, match.down)]
    inputs = [match.x, choice_TE, *weights[0], None, *weights[1], None]
    if mix_TE is not None:
        inputs += [None] * 6 + [mix_TE]
    return b.op("QMoE", inputs, attributes, domain=MICROSOFT)


def _quantized(
    b: GraphBuilder, match: Match, rows: Rows, bits: int, block: int | None, context: LoweringContext
) -> tuple[ir.Value, ir.Value]:
    """Data uint8 [E, N, bytes] and scales float32 [E, N, blocks], or [E, N] when a row is one block."""
    name = f"{match.prefix}.{_kind(rows)}"
    columns, each = rows.tail[0], rows.count // match.count
    codes = calibrated_codes(rows, context.calibrated_linears(rows))
    job = QuantizeRows(rows, bits, block or columns, codes)
    shape = (match.count, each, columns * bits // 8)
    recipe = Recipe(job, sources=rows.parts, interleaved=rows.interleaved)
    data = b.lazy(f"{name}.blocks", ir.DataType.UINT8, shape, recipe)
    size = (match.count, each, job.blocks) if block else (match.count, each)
    return data, b.lazy(f"{name}.scales", ir.DataType.FLOAT, size, Recipe(job, side=True))


def _floats(
    b: GraphBuilder, match: Match, logits_TE: ir.Value, chosen: WeightFormat, context: LoweringContext
) -> ir.Value:
    """`MoE`, which takes the softmax of what it selects by; weights stored as float32, or as float16 and widened."""
    attributes, total_T1 = _attributes(match), None
    if match.scoring is Scoring.SIGMOID:
        logits_TE, sum_T1 = _as_logits(b, match, logits_TE)
        total_T1 = None if attributes["normalize_routing_weights"] else sum_T1
    gate_up, down = (_stored(b, match, rows, chosen) for rows in (match.gate_up, match.down))
    y_BSC = b.op("MoE", [match.x, logits_TE, gate_up, None, down], attributes, domain=MICROSOFT)
    # ONNX Runtime may let it write over its input, and then it is wrong (issue 33866): a later reader forbids that.
    y_BSC = b.op("Where", [b.const(False, np.bool_), match.x, y_BSC], name="apart")
    if total_T1 is None:
        return y_BSC
    shape_BS1 = b.op("Concat", [b.op("Shape", [match.x], {"start": 0, "end": -1}), b.const([1])], {"axis": 0})
    return b.op("Mul", [y_BSC, b.op("Reshape", [total_T1, shape_BS1])], name="mixed")


def _as_logits(b: GraphBuilder, match: Match, logits_TE: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Logits whose softmax is the share of each selected expert in the sum of their sigmoids, and that sum [T, 1]."""
    scores_TE = b.op("Sigmoid", [logits_TE], name="scores")
    choice_TE = b.op("Add", [scores_TE, match.bias], name="choice")
    top_k = b.const([attribute(match.node, "top_k")[0]])
    _, index_TK = b.ops("TopK", [choice_TE, top_k], {"axis": -1}, 2)
    selected_TK = b.op("GatherElements", [scores_TE, index_TK], {"axis": -1}, name="selected")
    logs_TK = b.op("Log", [b.op("Max", [selected_TK, b.const(np.finfo(np.float32).tiny, np.float32)])])
    others_TE = b.op("Sub", [scores_TE, b.const(1e9, np.float32)], name="others")
    total_T1 = b.op("ReduceSum", [selected_TK, b.const([-1])], {"keepdims": 1}, name="total")
    return b.op("ScatterElements", [others_TE, index_TK, logs_TK], {"axis": -1}, name="shares"), total_T1


def _stored(b: GraphBuilder, match: Match, rows: Rows, chosen: WeightFormat) -> ir.Value:
    """Rows as float32 [E, N, K], widened at load where they are stored as float16."""
    dtype = ir.DataType.FLOAT16 if chosen.bits == 16 else ir.DataType.FLOAT
    recipe = Recipe(StoreRows(rows, dtype), sources=rows.parts, interleaved=rows.interleaved)
    shape = (match.count, rows.count // match.count, rows.tail[0])
    weight = b.lazy(f"{match.prefix}.{_kind(rows)}.{dtype.name.lower()}", dtype, shape, recipe)
    return b.op("Cast", [weight], {"to": int(ir.DataType.FLOAT)}) if chosen.bits == 16 else weight


def _kind(rows: Rows) -> str:
    return "gate_up_proj" if rows.interleaved > 1 else "down_proj"
