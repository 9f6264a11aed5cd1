"""A request: tokens to continue, how to sample, and a way to stop it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event

from inference_pio.runtime.sampling_params import ResolvedSampling
from inference_pio.runtime.thinking_budget import ThinkingBudget
from inference_pio.runtime.vision.prompt import PromptImages


@dataclass(frozen=True)
class Request:
    """One answer to one prompt; `index` tells apart the answers of `n > 1`, `images` stand in the prompt's tokens.

    `thinking` limits the reasoning of the answer, None does not.
    """

    prompt_ids: list[int]
    sampling: ResolvedSampling
    index: int = 0
    cancel: Event = field(default_factory=Event)
    images: PromptImages | None = None
    thinking: ThinkingBudget | None = None
