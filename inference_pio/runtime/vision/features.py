"""What a vision tower makes of images, and the part of it that a chunk of a prompt needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Features:
    """Float32 [layers, tokens, C] of one image or video: first what stands in its tokens' places, then DeepStack's."""

    layers: np.ndarray


@dataclass(frozen=True)
class ChunkImages:
    """The image inputs of a decoder for one chunk: `mask` bool [1, S] and `layers` float32 [layers, 1, S, C]."""

    mask: np.ndarray
    layers: np.ndarray
