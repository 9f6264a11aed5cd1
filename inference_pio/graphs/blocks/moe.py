"""Mixture of experts: a router and SwiGLU experts as one function whose body is standard ONNX.

`MoESoftmax` routes as Qwen3-MoE does: softmax over all experts, then the largest. `MoESigmoid` routes as DeepSeek-V3
(Liu et al. 2024, arXiv:2412.19437) and GLM do: a bias helps to select experts, but not to mix them. The weights of all
experts stand one below the other: gate and up [E * F, C], down [E * C, F].
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from inference_pio.graphs.blocks.mlp import swiglu
from inference_pio.graphs.builder import OPSET, GraphBuilder
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec, Scoring

DOMAIN = "inference_pio"

_FUNCTION = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}, "{DOMAIN}" : 1]>\n'
"""The bodies use nothing newer than opset 18, so that targets of older opsets can keep the functions."""

# Every expert computes the tokens whose weight for it is not zero.
_EXPERTS = """
Experts (x_BSC, weights_BSE, gate, up, down) => (y_BSC)
{
  rest = Constant <value_ints = [-1]> ()
  experts = Shape <start = -1> (weights_BSE)
  hidden = Shape <start = -1> (x_BSC)
  rest_hidden = Concat <axis = 0> (rest, hidden)
  rest_experts = Concat <axis = 0> (rest, experts)
  x_TC = Reshape (x_BSC, rest_hidden)
  weights_TE = Reshape (weights_BSE, rest_experts)
  experts_rest_hidden = Concat <axis = 0> (experts, rest, hidden)
  experts_hidden_rest = Concat <axis = 0> (experts, hidden, rest)
  gate_EFC = Reshape (gate, experts_rest_hidden)
  up_EFC = Reshape (up, experts_rest_hidden)
  down_ECF = Reshape (down, experts_hidden_rest)
  zeros_TC = Sub (x_TC, x_TC)
  count = Squeeze (experts)
  always = Constant <value = bool {1}> ()
  y_TC = Loop <body = expert (int64 e, bool go_on, float[T, C] sum_TC) => (bool go, float[T, C] next_TC) {
    go = Identity (go_on)
    weight_T = Gather <axis = 1> (weights_TE, e)
    row_1N = NonZero (weight_T)
    row_N1 = Transpose <perm = [1, 0]> (row_1N)
    own_NC = GatherND (x_TC, row_N1)
    gate_FC = Gather <axis = 0> (gate_EFC, e)
    up_FC = Gather <axis = 0> (up_EFC, e)
    down_CF = Gather <axis = 0> (down_ECF, e)
    gate_NF = Gemm <transB = 1> (own_NC, gate_FC)
    up_NF = Gemm <transB = 1> (own_NC, up_FC)
    sigmoid_NF = Sigmoid (gate_NF)
    open_NF = Mul (gate_NF, sigmoid_NF)
    inner_NF = Mul (open_NF, up_NF)
    out_NC = Gemm <transB = 1> (inner_NF, down_CF)
    last = Constant <value_ints = [-1]> ()
    weight_N = GatherND (weight_T, row_N1)
    weight_N1 = Unsqueeze (weight_N, last)
    share_NC = Mul (out_NC, weight_N1)
    next_TC = ScatterND <reduction = "add"> (sum_TC, row_N1, share_NC)
  }> (count, always, zeros_TC)
  shape = Shape (x_BSC)
  y_BSC = Reshape (y_TC, shape)
}
"""

# ONNX Runtime 1.20 does not see the size of a Constant whose value is an attribute; a Reshape tells it.
# `normalize` 1 divides the weights of the selected experts by their sum; 0 leaves them as they are.
_MIX = """
  on = Constant <value_int: int = @normalize> ()
  on_float = Cast <to = 1> (on)
  one = Constant <value_float = 1.0> ()
  off_float = Sub (one, on_float)
  last = Constant <value_ints = [-1]> ()
  sum = ReduceSum <keepdims = 1> (selected, last)
  never_zero = Constant <value_float = 1e-20> ()
  divisor = Add (sum, never_zero)
  divisor_if_on = Mul (divisor, on_float)
  divided_by = Add (divisor_if_on, off_float)
  mixed = Div (selected, divided_by)
  factor = Constant <value_float: float = @scale> ()
  scaled = Mul (mixed, factor)
  zeros_BSE = Sub (scores_BSE, scores_BSE)
  weights_BSE = ScatterElements <axis = -1> (zeros_BSE, index, scaled)
  y_BSC = inference_pio.Experts (x_BSC, weights_BSE, gate, up, down)
"""

_SOFTMAX = f"""
MoESoftmax <top_k, normalize, scale> (x_BSC, router_EC, gate, up, down) => (y_BSC)
{{
  router_CE = Transpose <perm = [1, 0]> (router_EC)
  logits_BSE = MatMul (x_BSC, router_CE)
  scores_BSE = Softmax <axis = -1> (logits_BSE)
  top_k = Constant <value_ints: ints = @top_k> ()
  one_size = Constant <value_ints = [1]> ()
  k = Reshape (top_k, one_size)
  selected, index = TopK <axis = -1> (scores_BSE, k)
{_MIX}}}
"""

# onnx.reference has no negative axes for GatherElements.
_SIGMOID = f"""
MoESigmoid <top_k, normalize, scale> (x_BSC, router_EC, bias_E, gate, up, down) => (y_BSC)
{{
  router_CE = Transpose <perm = [1, 0]> (router_EC)
  logits_BSE = MatMul (x_BSC, router_CE)
  scores_BSE = Sigmoid (logits_BSE)
  choice_BSE = Add (scores_BSE, bias_E)
  top_k = Constant <value_ints: ints = @top_k> ()
  one_size = Constant <value_ints = [1]> ()
  k = Reshape (top_k, one_size)
  chosen, index = TopK <axis = -1> (choice_BSE, k)
  selected = GatherElements <axis = 2> (scores_BSE, index)
{_MIX}}}
"""

NAMES = {Scoring.SOFTMAX: "MoESoftmax", Scoring.SIGMOID: "MoESigmoid"}


@cache
def functions() -> tuple[ir.Function, ...]:
    """The functions that `moe` calls."""
    texts = (_EXPERTS, _SOFTMAX, _SIGMOID)
    return tuple(ir.serde.deserialize_function(onnx.parser.parse_function(_FUNCTION + text)) for text in texts)


def moe(b: GraphBuilder, source: WeightSource, spec: DecoderSpec, x_BSC: ir.Value, prefix: str, layer: int) -> ir.Value:
    """Routed experts, plus the shared ones where there are any -> [B, S, C]; a dense block in a dense layer."""
    experts = spec.experts(layer)
    if experts is None:
        return swiglu(b, source, spec, x_BSC, prefix, layer)
    hidden, inner = spec.hidden_size, experts.width
    inputs = [b.weight(f"{prefix}.gate.weight", source.rows(f"{prefix}.gate.weight", (experts.count, hidden)))]
    if experts.scoring is Scoring.SIGMOID:
        bias = f"{prefix}.gate.e_score_correction_bias"
        inputs.append(b.weight(bias, source.rows(bias, (experts.count,))))
    for kind, shape in (("gate_proj", (inner, hidden)), ("up_proj", (inner, hidden)), ("down_proj", (hidden, inner))):
        names = [f"{prefix}.experts.{expert}.{kind}.weight" for expert in range(experts.count)]
        first, *others = [source.rows(name, shape) for name in names]
        inputs.append(b.weight(f"{prefix}.experts.{kind}.weight", first.stack(*others)))
    attributes = {"top_k": [experts.active], "normalize": int(experts.normalize), "scale": float(experts.scale)}
    b.functions(functions())
    y_BSC = b.op(NAMES[experts.scoring], [x_BSC, *inputs], attributes, domain=DOMAIN)
    if experts.shared_width:
        shared = swiglu(b, source, spec, x_BSC, f"{prefix}.shared_experts", layer, experts.shared_width)
        y_BSC = b.op("Add", [y_BSC, shared], name="with_shared")
    return y_BSC
