"""The original of a model with a vision tower, streamed: the tower's blocks and the decoder's layers one at a time.

All examples are one batch, shorter ones filled at their end, where no earlier token can see it. The model's own forward
runs once over it; in the tower only one image or frame is in a block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from inference_pio.errors import BadInputError
from inference_pio.verify.reference.head import Head
from inference_pio.verify.reference.layers import loaded, round_inputs, stream_layer
from inference_pio.verify.reference.questions import Question
from inference_pio.verify.reference.skeleton import load_small, stored_embedding, tied_tensor, vision_skeleton
from inference_pio.verify.reference.streaming import Progress, torch_threads
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import ModelWeights

DECODER, TOWER = "model.language_model.", "model.visual."
MERGED_TOKENS = 1 << 12
"""Tokens of images that a merger makes at a time."""


def write_answers(
    folder: Path,
    weights: ModelWeights,
    questions: Sequence[Question],
    sink: LogitsFile,
    layers: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the logits that predict the tokens of every answer to `sink`, one answer behind the other.

    `folder` holds `config.json`; `layers` cuts the decoder to its first layers. Memory: the weights of one block or
    layer, the patches of all images, the hidden states of all examples as long as the longest, and one chunk of the
    head. Raises BadInputError when transformers does not know the model, or a weight is missing or of the wrong shape.
    """
    report = progress or (lambda done, total: None)
    with torch_threads(threads), torch.inference_mode():
        model = vision_skeleton(folder)
        decoder, tower = model.model.language_model, model.model.visual
        decoder.layers = decoder.layers[:layers]
        work = len(decoder.layers) + 1
        apart = (DECODER + "layers.", DECODER + "embed_tokens.", "lm_head.weight", TOWER + "blocks.")
        load_small(model, weights, (*apart, TOWER + "merger.", TOWER + "deepstack_merger_list."))
        table = tied_tensor(model, DECODER + "embed_tokens.weight", weights, DECODER)
        decoder.embed_tokens.forward = stored_embedding(table, weights)
        for index, block in enumerate(tower.blocks):
            _stream_block(block, f"{TOWER}blocks.{index}.", weights)
        some = MERGED_TOKENS * tower.spatial_merge_unit
        _stream_merger(tower.merger, f"{TOWER}merger.", weights, some)
        for index, merger in enumerate(tower.deepstack_merger_list):
            _stream_merger(merger, f"{TOWER}deepstack_merger_list.{index}.", weights, some)
        for index, layer in enumerate(decoder.layers):
            stream_layer(layer, index, weights, partial(report, index + 1, work), DECODER)
        wanted = [slice(len(q.ids) - 1 - q.answer, len(q.ids) - 1) for q in questions]
        head = Head(tied_tensor(model, "lm_head.weight", weights, DECODER), model, weights, wanted, sink)
        model.lm_head.forward = head.run
        output = model(**_batch(questions), use_cache=False)
        if output.logits is not head.placeholder:
            raise BadInputError(
                f"{model.config.model_type} computes on the logits after lm_head, which is not streamed"
            )
        report(work, work)


def _batch(questions: Sequence[Question]) -> dict[str, torch.Tensor]:
    longest = max(len(question.ids) for question in questions)
    ids, kinds = (torch.zeros((len(questions), longest), dtype=torch.int64) for _ in range(2))
    for row, question in enumerate(questions):
        ids[row, : len(question.ids)] = torch.tensor(question.ids)
        kinds[row, : len(question.ids)] = torch.tensor(question.kinds)
    batch = {"input_ids": ids, "mm_token_type_ids": kinds}
    for name, grid, found in (
        ("pixel_values", "image_grid_thw", [q.images for q in questions if q.images is not None]),
        ("pixel_values_videos", "video_grid_thw", [q.videos for q in questions if q.videos is not None]),
    ):
        if found:
            batch[name], batch[grid] = torch.cat([patches for patches, _ in found]), torch.cat([g for _, g in found])
    return batch


def _stream_block(block: Any, prefix: str, weights: ModelWeights) -> None:
    """Give a block of the tower a forward that loads its weights, runs frame by frame and unloads them."""
    forward = block.forward
    round_inputs(block, prefix, weights)

    def run(hidden_PC: torch.Tensor, cu_seqlens: torch.Tensor, **arguments: Any) -> torch.Tensor:
        turns = arguments.pop("position_embeddings")
        with loaded(block, prefix, weights):
            for start, stop in pairwise(cu_seqlens.tolist()):
                ends = torch.tensor([0, stop - start], dtype=cu_seqlens.dtype)
                own = tuple(angles[start:stop] for angles in turns)
                part = hidden_PC[start:stop]
                hidden_PC[start:stop] = forward(part, cu_seqlens=ends, position_embeddings=own, **arguments)
        return hidden_PC

    block.forward = run


def _stream_merger(merger: Any, prefix: str, weights: ModelWeights, patches: int) -> None:
    """As `_stream_block`, for what makes tokens of patches, so many at a time."""
    forward: Callable[[torch.Tensor], torch.Tensor] = merger.forward
    round_inputs(merger, prefix, weights)

    def run(hidden_PC: torch.Tensor) -> torch.Tensor:
        with loaded(merger, prefix, weights):
            return torch.cat([forward(part) for part in hidden_PC.split(patches)])

    merger.forward = run
