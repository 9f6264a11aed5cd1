"""What a hardware profile says."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.errors import BadInputError


@dataclass(frozen=True)
class Card:
    """A GPU or CPU that can be bought, with its peaks as its maker states them or as they follow from cores and clock.

    `title` is what its driver calls it. Memory in GiB as sold, 15/16 of that where GDDR comes with ECC on (0 for a CPU:
    whatever is plugged in), bandwidth in 10^9 bytes per second, dense floating-point operations in 10^12 per second
    (`fp16` 0 where it is no faster than `fp32`), int8 operations in 10^12 per second. `display` is false where no
    desktop takes a share of the memory.
    """

    name: str
    title: str
    memory_gib: float
    bandwidth_gb_s: float
    fp32_tflops: float
    fp16_tflops: float
    int8_tops: float
    display: bool = True

    @property
    def memory(self) -> int:
        """Bytes of memory on the card."""
        return int(self.memory_gib * 2**30)


@dataclass(frozen=True)
class LastVersions:
    """The last versions that serve a class of GPUs; None where today's do."""

    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    tensorrt: str | None = None
    onnxruntime_gpu: str | None = None


@dataclass(frozen=True)
class Hardware:
    """A class of machines that run the same artifacts.

    `dialects` are (target, dialect), the preferred first: the targets that run on it and the form of each that it
    understands, "" where a target has one form. `cpu_classes` are those that an artifact for it is valid on ("any" for
    all of them). `compute_capabilities` are those of its GPUs, none for a CPU. `dtypes` are those its kernels compute
    in, `int8` is what multiplies int8 numbers, `sources` are where the facts stand: each begins with what it is for.
    """

    name: str
    title: str
    dialects: tuple[tuple[str, str], ...]
    dtypes: tuple[str, ...]
    int8: str
    cards: tuple[Card, ...]
    sources: tuple[str, ...]
    cpu_classes: tuple[str, ...] = ("any",)
    compute_capabilities: tuple[str, ...] = ()
    last: LastVersions = LastVersions()

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that run on it."""
        return tuple(target for target, _ in self.dialects)

    @property
    def is_gpu(self) -> bool:
        """Whether its machines compute on a GPU."""
        return bool(self.compute_capabilities)

    def dialect_of(self, target: str) -> str:
        """The form of `target` that it understands; raises BadInputError for a target that does not run on it."""
        for known, dialect in self.dialects:
            if known == target:
                return dialect
        raise BadInputError(f"target {target} does not run on {self.name}: use {', '.join(self.targets)}")

    def card(self, name: str) -> Card | None:
        """The card called `name`, None where the class has none."""
        return next((card for card in self.cards if card.name == name), None)
