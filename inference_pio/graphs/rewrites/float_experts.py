"""Experts stay the standard function, in float32; formats that no operator of the target multiplies are refused.

ONNX Runtime runs the function's loop over the experts that some token chose.
"""

from __future__ import annotations

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.rewrites import expert_kernels
from inference_pio.graphs.rewrites.rewrite import LoweringContext


def pattern(node: ir.Node) -> expert_kernels.Match | None:
    """A call of the function `MoESoftmax` or `MoESigmoid` over rows of the checkpoint."""
    return expert_kernels.pattern(node)


def check(match: expert_kernels.Match, context: LoweringContext) -> None:
    """Raises BadInputError for experts that are not to be float32."""
    name = match.down.parts[0][0]
    chosen = context.format_of(name).for_experts()
    if chosen.bits != 32:
        raise BadInputError(
            f"'{name}' would be {chosen}, and this target has no operator for experts: export with --precision fp32, "
            "or for hardware sm75 and newer"
        )


def rewrite(graph: ir.Graph, match: expert_kernels.Match, context: LoweringContext) -> None:
    """Nothing to change."""
