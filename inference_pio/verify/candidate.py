"""The artifact's side of a comparison: tokenize the text and write the engine's logits to disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine
from inference_pio.verify.calibration_facts import refuse_calibrated
from inference_pio.verify.findings import Decode
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.scratch import LogitsFile, Scratch
from inference_pio.verify.windows import Text, Windows, cut


@dataclass(frozen=True)
class Candidate:
    """What the artifact made of the text; `tokens` are those of the whole text, none without a text."""

    windows: Windows
    tokens: list[int]
    logits: LogitsFile
    decode: Decode


def run_artifact(
    artifact: Artifact, text: Text | None, saved: Windows | None, options: VerifyOptions, scratch: Scratch
) -> Candidate:
    """Teacher-forced logits of the artifact on `saved` windows, or else on windows cut from `text`.

    The engine is closed, and its memory free, when this returns. Raises BadInputError for windows that exceed the
    artifact's context, and what opening an engine raises.
    """
    with Engine.open(artifact.path, options.engine) as engine:
        tokens = [] if text is None else engine.tokenizer.encode(text.content)
        windows = saved
        if windows is None:
            if text is None:
                raise ValueError("neither a text nor saved windows")
            positions = options.positions_for(artifact.manifest.recipe.name)
            windows = cut(text, tokens, min(options.window, engine.context_length), positions)
        if min(windows.window, windows.positions) > engine.context_length:
            raise BadInputError(
                f"windows of {windows.window} tokens exceed the artifact's context of {engine.context_length}: "
                "save a reference with shorter windows"
            )
        if text is not None:
            refuse_calibrated(artifact, text.content)
        scratch.require(windows.positions, windows.window)
        logits = scratch.open(windows.positions)
        for start, inputs in zip(windows.starts, windows.inputs, strict=True):
            place = start
            for rows in engine.stream_logits([int(token) for token in inputs]):
                if rows.ndim != 2 or rows.shape[1] != logits.vocabulary:
                    raise BadInputError(
                        f"the artifact in {artifact.path} gives logits {list(rows.shape)} where the original has a "
                        f"vocabulary of {logits.vocabulary}: it is not an export of this checkpoint"
                    )
                logits.write(place, 0, rows)
                place += len(rows)
                options.report("artifact", place, windows.positions)
        tokenizer = engine.tokenizer

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    return Candidate(windows, tokens, logits, decode)
