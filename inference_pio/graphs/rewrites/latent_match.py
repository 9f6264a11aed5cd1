"""The canonical attention over latents, as its rewrites find it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.graphs.rewrites.group_query_attention import mask_window
from inference_pio.graphs.rewrites.rewrite import NoMatchError, attribute, check_scores, only_consumer, producer


@dataclass(frozen=True)
class LatentMatch:
    """One canonical attention over latents, and the Concat that appends to its cache."""

    attention: ir.Node
    append: ir.Node

    @property
    def latent(self) -> ir.Node | None:
        """The Slice that alone reads the result."""
        return only_consumer(self.attention.outputs[0], "Slice")

    @property
    def rank(self) -> int | None:
        """How many channels that Slice keeps, if these are the first ones of the last axis."""
        if self.latent is None or len(self.latent.inputs) != 4:
            return None
        start, stop, axis = (
            None if v is None or v.const_value is None else v.const_value.numpy().tolist()
            for v in self.latent.inputs[1:]
        )
        return stop[0] if stop is not None and (start, axis) == ([0], [3]) and stop[0] > 0 else None


def match_latents(node: ir.Node) -> LatentMatch | None:
    """`Attention(q, rows, rows, mask)` with `rows = Concat(graph input, new)`."""
    if (node.op_type, node.domain, len(node.inputs)) != ("Attention", "", 4) or node.inputs[1] is not node.inputs[2]:
        return None
    append = producer(node.inputs[1], "Concat")
    past = append.inputs[0] if append is not None else None
    return LatentMatch(node, append) if append is not None and past is not None and past.is_graph_input() else None


def check_whole_cache(match: LatentMatch) -> None:
    """Raise NoMatchError unless a token sees all rows, the cache is given back, and latents alone are read."""
    check_scores(match.attention)
    if attribute(match.append, "axis") != 2 or len(match.append.inputs) != 2:
        raise NoMatchError("the cache does not grow along its tokens")
    if mask_window(match.attention.inputs[3]) is not None:
        raise NoMatchError("a sliding window")
    if not match.append.outputs[0].is_graph_output():
        raise NoMatchError("the cache is not given back")
    if match.rank is None:
        raise NoMatchError("more than the first channels of the result is read")
