"""The lowered graphs of an export, with lazy weights, and the files that they will lie in."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inference_pio.artifact.manifest import TableFacts
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.export.calibrating import row_reader
from inference_pio.export.plan import ExportPlan
from inference_pio.graphs.architectures import build_graphs, declare_cut
from inference_pio.graphs.parts import Part
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.table import FILE, Table, find_table, table_rows
from inference_pio.graphs.targets.target import RewriteReport

TABLE_DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.INT8: "int8"}


@dataclass(frozen=True)
class Graphs:
    """The parts of an artifact and, where the host looks tokens up, their table."""

    parts: list[Part]
    table: Table | None = None

    @property
    def weights(self) -> dict[str, ir.Graph]:
        """The graphs that have weights, by the file that these go to."""
        own = {} if self.table is None or self.table.own is None else {FILE: self.table.own}
        return {**{part.weights_file: part.model.graph for part in self.parts}, **own}

    @property
    def all(self) -> list[ir.Graph]:
        """The graphs that have weights."""
        return list(self.weights.values())

    @property
    def decoder_files(self) -> list[str]:
        """The files with the weights of the decoder, whatever parts it has; a vision tower's are not among them."""
        towers = {part.weights_file for part in self.parts if part.role == "vision"}
        return [name for name in self.weights if name not in towers]

    def table_facts(self) -> TableFacts | None:
        """Where the token table lies, once the weights are written; None where the graphs look tokens up."""
        if self.table is None:
            return None
        values, scales = self.table.values.const_value, self.table.scales and self.table.scales.const_value
        assert isinstance(values, ir.ExternalTensor)  # written by now
        rows, columns, *_ = values.shape.numpy()
        return TableFacts(
            tensor=self.table.tensor,
            file=str(values.location),
            offset=values.offset or 0,
            rows=rows,
            columns=columns,
            dtype=TABLE_DTYPES[values.dtype],
            scales_offset=scales.offset if isinstance(scales, ir.ExternalTensor) else None,
        )


def lowered_graphs(checkpoint: Checkpoint, plan: ExportPlan) -> tuple[Graphs, list[RewriteReport]]:
    """The lowered graphs and how often each rewrite matched."""
    source = WeightSource(checkpoint, row_reader(checkpoint, plan.calibration))
    declare_cut(source, checkpoint, plan.spec)
    models, context = build_graphs(plan.architecture, plan.spec, source), plan.lowering()
    table = table_rows(models["decoder"], context)
    reports = plan.target.lower(models["decoder"], context)
    parts = plan.target.parts(models["decoder"], context, plan.block_layers)
    if "vision" in models:
        reports += plan.target.lower_vision(models["vision"], context)
        parts.append(Part("vision", "vision.onnx", models["vision"]))
    return Graphs(parts, None if plan.target.cut is None else find_table(table, parts, context)), reports
