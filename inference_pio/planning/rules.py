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

CACHE_ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
PROMPTS = (512, 2048)
CONTEXTS = (0, 2048)


@dataclass(frozen=True)
class Rules:
    """How a target uses a machine: where table and experts live, and what products reach.

    `integer_blocks` says whether products of blocks of integers reach the rate of int8, as products of integers do;
    else they are floating point, with the rate of what the recipe computes in. `other_caches` are storages of the cache
    beside that of activations. `quantized_experts` is false where the device has no operator for experts stored as
    integers. `is_built` says that engines are built of an artifact before it runs. `stores_angles` names what a decoder
    computes in where the file has a table of rotary angles.
    """

    table_on_device: bool
    experts_on_device: bool
    integer_blocks: bool = False
    other_caches: tuple[str, ...] = ()
    quantized_experts: bool = True
    is_built: bool = False
    stores_angles: tuple[str, ...] = ()

    def rate(self, card: Card, product: Product, compute: str) -> float:
        """Operations per second on a card, where floating point is of the type `compute`."""
        if product is Product.INTEGERS or (product is Product.BLOCKS and self.integer_blocks):
            return 1e12 * card.int8_tops
        half = 0.0 if compute == "float32" else card.fp16_tflops
        return 1e12 * (half or card.fp32_tflops)


CPU_RULES = Rules(True, True, integer_blocks=True, other_caches=("int8",), stores_angles=("float32",))

RULES = {
    "ort-cpu": CPU_RULES,
    "tensorrt/trt85": Rules(False, False, other_caches=("fp16", "int8"), is_built=True),
    "tensorrt/modern": Rules(False, False, other_caches=("int8",), is_built=True),
    "ort-cuda/sm61": Rules(True, True, quantized_experts=False),
    "ort-cuda/modern": Rules(True, True, stores_angles=("float16", "bfloat16")),
}
"""By `Target.key`. Experts that are not on the device are computed by the host's CPU."""
