"""A request: tokens to continue, how to sample, and a way to stop it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event

from inference_pio.runtime.sampling_params import ResolvedSampling


@dataclass(frozen=True)
class Request:
    """One answer to one prompt; `index` tells apart the answers of `n > 1`."""

    prompt_ids: list[int]
    sampling: ResolvedSampling
    index: int = 0
    cancel: Event = field(default_factory=Event)
