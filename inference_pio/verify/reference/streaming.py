"""One run of the original over all windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from inference_pio.errors import BadInputError
from inference_pio.verify.reference.head import Head
from inference_pio.verify.reference.layers import stream_layer
from inference_pio.verify.reference.skeleton import load_small, skeleton, stored_embedding, tied_tensor
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import ModelWeights

DECODER = "model."
"""How the names of a plain decoder's tensors begin."""
Progress = Callable[[int, int], None]
"""(work done, all work) in any unit."""


def write_logits(
    folder: Path,
    weights: ModelWeights,
    windows: Sequence[np.ndarray],
    sink: LogitsFile,
    layers: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the logits of every token of every window to `sink`, [positions, vocabulary] in the windows' order.

    `folder` holds `config.json`; `windows` are int64 token ids of one length, the last perhaps shorter; `layers` cuts
    the model to its first layers. Memory: the weights of one layer, of its experts only one, the hidden states of all
    positions and one chunk of the head. Raises BadInputError when transformers does not know the model, it is no plain
    decoder, or a weight is missing or of the wrong shape.
    """
    report = progress or (lambda done, total: None)
    with torch_threads(threads), torch.inference_mode():
        model = skeleton(folder)
        model.model.layers = model.model.layers[:layers]
        work = len(model.model.layers) + 1
        load_small(model, weights, (DECODER + "layers.", DECODER + "embed_tokens.", "lm_head.weight"))
        model.model.embed_tokens.forward = stored_embedding(
            tied_tensor(model, DECODER + "embed_tokens.weight", weights, DECODER), weights
        )
        for index, layer in enumerate(model.model.layers):
            stream_layer(layer, index, weights, partial(report, index + 1, work))
        wanted = [slice(len(window)) for window in windows]
        head = Head(tied_tensor(model, "lm_head.weight", weights, DECODER), model, weights, wanted, sink)
        model.lm_head.forward = head.run
        output = model(input_ids=_batch(windows), use_cache=False)
        if output.logits is not head.placeholder:
            raise BadInputError(
                f"{model.config.model_type} computes on the logits after lm_head, which the streamed reference "
                "does not do: verify this model on a machine that holds it whole"
            )
        report(work, work)


def _batch(windows: Sequence[np.ndarray]) -> torch.Tensor:
    """Windows as one int64 batch; a shorter one is filled at its end, where no earlier token can see it."""
    ids = np.zeros((len(windows), max(len(window) for window in windows)), dtype=np.int64)
    for row, window in zip(ids, windows, strict=True):
        row[: len(window)] = window
    return torch.from_numpy(ids)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads for a while."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
