"""What a plan reserves, and where each target keeps the parts of a model and what multiplies them there."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.graphs.hardware.hardware import Card
from inference_pio.planning.weights import Product

MIB = 2**20
CONTEXT_BYTES = 250 * MIB
"""What CUDA itself takes of a GPU's memory as soon as a process uses it."""
WORKSPACE_BYTES = 300 * MIB
"""Activations and scratch space of a prompt's chunk, for models of a few thousand channels."""
DESKTOP_BYTES = 200 * MIB
"""What a desktop on the same GPU takes."""
SYSTEM_BYTES = 1536 * MIB
"""What an idle Linux desktop takes of the host's memory."""
PROCESS_BYTES = 300 * MIB
"""Interpreter, execution backend and tokenizer, and a prompt's activations on a CPU."""
IMAGE_PATCHES = 1024
"""Patches of the image that memory and speed are planned for: 512 x 512 pixels with patches of 16."""
DISK_GB_S = 3.0
"""Reading from an NVMe drive on four lanes of PCIe 3.0, 10^9 bytes per second."""
SHORTEST_CONTEXT = 512
"""Fewer tokens of cache than this are no fit, unless fewer are asked for."""
MAPPED_CONTEXT = 4096
"""Tokens of cache that are kept in memory where a CPU leaves weights on the drive, unless others are asked for."""

CACHE_ITEM_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
PROMPTS = (512, 2048)
CONTEXTS = (0, 2048)


@dataclass(frozen=True)
class Rules:
    """How a target uses a machine: where table and experts live, what computes, which caches it has, the usual first.

    `quantized_experts` is false where the device has no operator for experts stored as integers. `floats` and `blocks`
    name the rates of a `Card` that products of floating point, and of blocks of integers, reach; products of integers
    reach `int8_tops`. `stores_angles` names what a decoder computes in where the file has a table of rotary angles.
    `built` says that engines are built for ranges of shapes.
    """

    table_on_device: bool
    experts_on_device: bool
    floats: str
    blocks: str
    caches: tuple[str, ...] = ("fp32", "fp16", "int8")
    quantized_experts: bool = True
    stores_angles: tuple[str, ...] = ()
    built: bool = False

    def rate(self, card: Card, product: Product) -> float:
        """Operations per second."""
        named = {Product.FLOATS: self.floats, Product.BLOCKS: self.blocks, Product.INTEGERS: "int8_tops"}[product]
        return 1e12 * float(getattr(card, named) or card.fp32_tflops)


CPU_RULES = Rules(True, True, "fp32_tflops", "int8_tops", ("fp32", "int8"), stores_angles=("float32",))

RULES = {
    "ort-cpu": CPU_RULES,
    "tensorrt/trt85": Rules(False, False, "fp32_tflops", "fp32_tflops", built=True),
    "tensorrt/modern": Rules(False, False, "fp16_tflops", "fp16_tflops", ("fp16", "fp32", "int8"), built=True),
    "ort-cuda/sm61": Rules(True, True, "fp32_tflops", "fp32_tflops", ("fp32",), quantized_experts=False),
    "ort-cuda/modern": Rules(
        True, True, "fp16_tflops", "fp16_tflops", ("fp16", "fp32"), stores_angles=("float16", "bfloat16")
    ),
}
"""By `Target.key`. Experts that are not on the device are computed by the host's CPU."""
