"""Is a model that sees still the original? The comparison on answers to questions about images, top to bottom.

The passes are those of a text: the artifact through the engine, the original through transformers and the simulation,
artifact and original each with its own reading of images, template and positions. Only the tokens of answers are
judged: image tokens predict nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine
from inference_pio.verify.calibration_facts import refuse_calibrated_examples
from inference_pio.verify.conclusion import Comparison
from inference_pio.verify.examples import Examples, read_examples
from inference_pio.verify.findings import Decode
from inference_pio.verify.gates import Gate
from inference_pio.verify.metrics import against_logits, must_be_finite
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import (
    Original,
    check_simulation,
    check_tokens,
    passes_for,
    rounded_weights,
    source_matches,
)
from inference_pio.verify.scratch import LogitsFile, Scratch
from inference_pio.verify.simulated import compare_windows, simulate
from inference_pio.verify.windows import Windows


@dataclass(frozen=True)
class Answers:
    """What the artifact made of the examples: whole `ids` of each, and the logits of `answers` tokens of each."""

    windows: Windows
    ids: list[list[int]]
    answers: list[int]
    logits: LogitsFile
    decode: Decode


def compare_answers(artifact: Artifact, checkpoint: Checkpoint, gate: Gate, options: VerifyOptions) -> Comparison:
    """The artifact and its checkpoint on the examples in `options.data`, by default the bundled drawings."""
    found = read_examples(options.data)
    refuse_calibrated_examples(artifact, found.examples)
    original = Original(checkpoint, artifact.manifest, options)
    passes = passes_for(artifact.manifest, options)
    if passes.simulation:
        check_simulation(artifact)
    with Scratch(options.scratch, artifact.manifest.model.vocab_size, passes) as scratch:
        ours = _run_artifact(artifact, found, options, scratch)
        windows, questions = ours.windows, original.questions(found.examples)
        theirs = [question.ids for question in questions]
        _check_lengths(ours.answers, [question.answer for question in questions], found.name)

        reference = scratch.open(windows.positions)
        original.write_answers(original.weights, questions, reference, "reference")
        read_reference = must_be_finite(reference.read)
        table = compare_windows(against_logits(read_reference), ours.logits, windows, options)
        simulated = None
        if passes.simulation:
            simulated = simulate(
                lambda weights, windows, sink, phase: original.write_answers(weights, questions, sink, phase),
                rounded_weights(artifact),
                read_reference,
                ours.logits,
                windows,
                gate,
                scratch,
                options,
            )
        facts = original.facts()
    return Comparison(
        windows=windows,
        decode=ours.decode,
        table=table,
        lower_bound=False,
        tokenizer=check_tokens([*chain(*ours.ids)], [*chain(*theirs)], "the checkpoint's template and tokenizer"),
        source_matches=source_matches(artifact.manifest, facts["source"]),
        versions=facts["versions"],
        simulated=simulated,
    )


def _run_artifact(artifact: Artifact, found: Examples, options: VerifyOptions, scratch: Scratch) -> Answers:
    with Engine.open(artifact.path, options.engine) as engine:
        tokenizer = engine.tokenizer
        tokens = [tokenizer.encode(example.answer, add_special_tokens=False) for example in found.examples]
        windows = _windows(found, tokens)
        scratch.require(windows.positions, windows.window)
        logits, ids, place = scratch.open(windows.positions), [], 0
        for example, answer in zip(found.examples, tokens, strict=True):
            ids.append([*engine.chat_tokens(example.messages), *answer])
            logits.write(place, 0, engine.answer_logits(example.messages, answer))
            place += len(answer)
            options.report("artifact", place, windows.positions)
    lengths = [len(answer) for answer in tokens]
    return Answers(windows, ids, lengths, logits, lambda ids: tokenizer.decode(ids, skip_special_tokens=False))


def _check_lengths(ours: Sequence[int], theirs: Sequence[int], name: str) -> None:
    """Raise BadInputError where the two tokenizers make answers of different lengths, which cannot be compared."""
    for mine, other in zip(ours, theirs, strict=True):
        if mine != other:
            raise BadInputError(
                f"the artifact's tokenizer makes {mine} tokens of an answer of {name}, the checkpoint's {other}: "
                "export the artifact again"
            )


def _windows(found: Examples, answers: Sequence[Sequence[int]]) -> Windows:
    """All answers behind each other: what predicts a token is counted, where it stands is not."""
    if not all(answers):
        raise BadInputError(f"an answer of {found.name} has no tokens: write one")
    stream = np.concatenate([[0], *answers]).astype(np.int64)
    return Windows(stream, len(stream) - 1, found.name, found.sha256)
