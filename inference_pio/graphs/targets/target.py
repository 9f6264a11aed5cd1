"""A target is data: a name, the operators it may use, and the ordered rewrites that lower a canonical graph to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from types import ModuleType

import onnx_ir as ir

from inference_pio.errors import BadInputError
from inference_pio.graphs.builder import IR_VERSION
from inference_pio.graphs.parts import Part
from inference_pio.graphs.rewrites.rewrite import (
    Kernels,
    LoweringContext,
    RewriteReport,
    apply_rewrite,
    drop_unused_functions,
    prune,
)
from inference_pio.graphs.spec import DecoderSpec

CPU_KERNELS = Kernels()
"""Those of ONNX Runtime on a CPU."""


class Attention(Enum):
    """The kinds of attention that a rewrite may be for."""

    GROUPED = "grouped"
    LATENT = "latent"

    @classmethod
    def of(cls, spec: DecoderSpec) -> Attention:
        """The kind that a decoder has."""
        return cls.GROUPED if spec.mla is None else cls.LATENT


@dataclass(frozen=True)
class Step:
    """One rewrite; a required one must match at least once.

    One with an `attention` is for such decoders alone, one with `half` for graphs that compute in sixteen bits, or in
    float32.
    """

    rewrite: ModuleType
    required: bool = False
    attention: Attention | None = None
    half: bool | None = None

    def applies(self, context: LoweringContext) -> bool:
        """Whether a decoder has what this rewrite is for."""
        half = context.compute != ir.DataType.FLOAT
        return self.attention in (None, Attention.of(context.spec)) and self.half in (None, half)


@dataclass(frozen=True)
class Target:
    """Where an artifact runs and how its graph gets there.

    `dialect` tells targets of one name apart: forms of the graph for different versions of what runs it, "" where
    there is one form.

    `requires` names the packages and their minimum versions; `steps` lower a decoder and `vision_steps` a vision
    tower; `padding` is the side on which batches are padded; `compact_cache` says that a row's cache has no gaps.
    `opset` and `ir_version` are those of the lowered file. `genai`: onnxruntime-genai can run it.
    """

    name: str
    opset: int
    requires: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    vision_steps: tuple[Step, ...]
    padding: str
    compact_cache: bool
    shared_cache_buffer: bool
    dialect: str = ""
    kernels: Kernels = CPU_KERNELS
    genai: bool = False
    ir_version: int = IR_VERSION
    default_context: int | None = None
    """The context of an export that asks for none, where caches hold all of it from the start; None is the model's."""
    kv_caches: tuple[str, ...] = ("fp32", "int8")
    """How keys and values may be stored."""
    cut: Callable[[ir.Model, LoweringContext, int | None], list[Part]] | None = None
    """Makes blocks of about so many layers of a lowered decoder, with the token table left to the host; None keeps it
    whole."""

    @property
    def key(self) -> str:
        """Name and dialect as one word, "tensorrt/trt85"; recipes are listed by it."""
        return f"{self.name}/{self.dialect}" if self.dialect else self.name

    def lower(self, model: ir.Model, context: LoweringContext) -> list[RewriteReport]:
        """Lower a canonical decoder in place and say how often each rewrite matched."""
        return self._apply(self.steps, model, context)

    def lower_vision(self, model: ir.Model, context: LoweringContext) -> list[RewriteReport]:
        """As `lower`, for the canonical graph of a vision tower."""
        return self._apply(self.vision_steps, model, context)

    def parts(self, model: ir.Model, context: LoweringContext, block_layers: int | None) -> list[Part]:
        """The graphs that a lowered decoder becomes; raises BadInputError for `block_layers` that do not fit."""
        if self.cut is not None:
            return self.cut(model, context, block_layers)
        if block_layers is not None:
            raise BadInputError(f"target {self.name} keeps a decoder whole: leave --block-layers out")
        return [Part("decoder", "model.onnx", model, tuple(range(context.spec.layers)))]

    def _apply(self, steps: tuple[Step, ...], model: ir.Model, context: LoweringContext) -> list[RewriteReport]:
        context = replace(context, kernels=self.kernels)
        reports = []
        for step in (step for step in steps if step.applies(context)):
            reports.append(apply_rewrite(step.rewrite, model.graph, context, step.required))
            prune(model.graph)
        drop_unused_functions(model)
        kept = [value for value in model.graph.inputs if list(value.uses())]
        del model.graph.inputs[:]
        model.graph.inputs.extend(kept)
        model.ir_version = self.ir_version
        for part in (model.graph, *model.functions.values()):
            part.opset_imports[""] = self.opset
        return reports
