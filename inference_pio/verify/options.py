"""What a caller may ask of a verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference_pio.errors import BadInputError
from inference_pio.runtime import EngineConfig

DEFAULT_POSITIONS = 4096
FP32_POSITIONS = 10_240
"""fp32 must agree in 99.99 % of its positions, which needs ten thousand of them to mean anything."""

Progress = Callable[[str, int, int], None]
"""(phase, work done, all work of the phase); called from the verifying thread."""


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify`; raises BadInputError for sizes below one.

    `text` None is the bundled held-out text. `data` is a JSONL file of questions about images with their answers, which
    models that see are compared on instead; None is the bundled drawings (see `verify.examples`). `gate` None goes by
    the artifact's recipe, else a name or a file; `baseline` is an earlier report that must not be undercut. `reference`
    reuses a saved reference instead of the checkpoint, `save_reference` writes one. `window` is in tokens; `positions`
    None is 4,096, for fp32 10,240. `threads` None leaves the choice to the libraries. `scratch` is the folder for
    logits, by default the system's temporary folder. `simulation` False skips the excess gate and halves the time.
    `backend` is what runs the artifact: "auto" (what it was made for), a device ("cpu", "cuda", "cuda:1"), or one of
    `runtime.config.BACKENDS`; its derived files are in `cache_dir`.
    """

    text: Path | None = None
    data: Path | None = None
    gate: str | Path | None = None
    baseline: Path | None = None
    reference: Path | None = None
    save_reference: Path | None = None
    window: int = 512
    positions: int | None = None
    threads: int | None = None
    backend: str = "auto"
    cache_dir: Path | None = None
    scratch: Path | None = None
    simulation: bool = True
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("window", "positions", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInputError(f"{name} is {value}, it must be at least 1")
        if self.reference is not None and self.save_reference is not None:
            raise BadInputError("a saved reference cannot be reused and saved in one run: drop one of the two")

    @property
    def engine(self) -> EngineConfig:
        """How the artifact is opened: where `backend` says, without caches, whatever its gate said before."""
        device = self.backend if self.backend.startswith(("cpu", "cuda")) else "auto"
        return EngineConfig(
            backend=self.backend if device == "auto" else "auto",
            device=device,
            threads=self.threads,
            cache_dir=self.cache_dir,
            prefix_cache_bytes=0,
            image_cache_bytes=0,
            allow_failed=True,
        )

    def positions_for(self, recipe: str) -> int:
        """How many positions to compare for an artifact of that recipe."""
        return self.positions or (FP32_POSITIONS if recipe == "fp32" else DEFAULT_POSITIONS)

    def report(self, phase: str, done: int, total: int) -> None:
        """Tell the caller how far a phase is."""
        if self.progress is not None:
            self.progress(phase, done, total)
