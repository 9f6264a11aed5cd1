"""What runs on the CUDA provider of onnxruntime-gpu 1.20.2, the last release with machine code for sm61.

Limits of opset and IR version: measured with onnxruntime 1.20.1, which refuses to load newer files. An operator without
a CUDA kernel would run on the CPU, with copies in between, so it is refused here. For which opset versions a kernel is
registered is not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inference_pio.graphs.lint import common
from inference_pio.graphs.lint.rule import Dialect, Objection, Rule
from inference_pio.graphs.lint.scope import Scope
from inference_pio.graphs.lint.wiring import wiring

TABLE = "ort_1_20_2.json"
TYPES = common.operator_types(TABLE)
NEWEST_IR = 10


def ir_version(scope: Scope) -> Iterator[Objection]:
    """The file format itself has a version."""
    if scope.main and scope.model.ir_version > NEWEST_IR:
        yield None, f"has IR version {scope.model.ir_version}, and up to {NEWEST_IR} are read: save it as an older one"


def forms(scope: Scope) -> Iterator[Objection]:
    """Contrib operators have the inputs, outputs and attributes of that release."""
    known = common.table(TABLE)["forms"]
    for node in scope.nodes:
        form = known.get(common.key(node))
        if form is None:
            continue
        for kind, values in (("inputs", node.input), ("outputs", node.output)):
            used = max((index + 1 for index, name in enumerate(values) if name), default=0)
            if used > form[kind]:
                yield node, f"{node.op_type} had {form[kind]} {kind} then, and {used} are used: use its older form"
        strange = {attribute.name for attribute in node.attribute} - set(form["attributes"].split())
        if strange:
            yield node, f"{node.op_type} had no attribute '{min(strange)}' then: use its older form"


def _bits(scope: Scope, node: Any) -> str | None:
    bits = scope.attribute(node, "bits", 4)
    return None if bits == 4 else f"has {bits} bits, and CUDA kernels of that release have 4: use int4"


DIALECT = Dialect(
    name="ort-1.20.2",
    runtime="onnxruntime-gpu 1.20.2, CUDA provider",
    rules=(
        Rule("opset", "measured with onnxruntime 1.20.1", common.opset(7, 21, "export for that version")),
        Rule("ir-version", "measured with onnxruntime 1.20.1", ir_version),
        Rule("wiring", "ONNX's IR specification and schemas", wiring),
        Rule("operator", TABLE, common.known_operators(TYPES, "the CUDA provider has no kernel for it; decompose it")),
        Rule("operand-type", TABLE, common.operand_types(TYPES, {}, "what its CUDA kernel takes")),
        Rule("form", TABLE, forms),
        Rule(
            "bits",
            "onnxruntime pull request 24509: 8 bits from 1.22 on",
            common.each("com.microsoft::MatMulNBits", _bits),
        ),
        Rule("external-data", "onnx, external data", common.external_data),
    ),
)
