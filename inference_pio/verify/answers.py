"""Is a model that sees still the original? The comparison on answers to questions about images, top to bottom.

Two passes, as for a text: the artifact through the engine, the original through transformers, each with its own
reading of images, template and positions. Only the tokens of answers are judged: image tokens predict nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.runtime import Engine
from inference_pio.verify.calibration_facts import refuse_calibrated_examples
from inference_pio.verify.conclusion import Comparison
from inference_pio.verify.examples import Examples, read_examples
from inference_pio.verify.metrics import against_logits, compare, must_be_finite
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import Original, check_tokens, source_matches
from inference_pio.verify.passes import Passes
from inference_pio.verify.scratch import Scratch
from inference_pio.verify.windows import Windows

PASSES = Passes(reference=True, simulation=False, twin=False)


def compare_answers(artifact: Artifact, checkpoint: Checkpoint, options: VerifyOptions) -> Comparison:
    """The artifact and its checkpoint on the examples in `options.data`, by default the bundled drawings."""
    found = read_examples(options.data)
    refuse_calibrated_examples(artifact, found.examples)
    original = Original(checkpoint, artifact.manifest, options)
    vocabulary = artifact.manifest.model.vocab_size
    with Engine.open(artifact.path, options.engine) as engine, Scratch(options.scratch, vocabulary, PASSES) as scratch:
        tokenizer = engine.tokenizer
        tokens = [tokenizer.encode(example.answer, add_special_tokens=False) for example in found.examples]
        windows = _windows(found, tokens)
        scratch.require(windows.positions, windows.window)
        ours, theirs = scratch.open(windows.positions), scratch.open(windows.positions)
        prompts, place = [], 0
        for example, answer in zip(found.examples, tokens, strict=True):
            prompts.append(engine.chat_tokens(example.messages))
            ours.write(place, 0, engine.answer_logits(example.messages, answer))
            place += len(answer)
            options.report("artifact", place, windows.positions)
        engine.close()

        place, mine, others = 0, [], []
        for reference, prompt, answer in zip(original.answers(found.examples), prompts, tokens, strict=True):
            mine += [*prompt, *answer]
            others += reference.ids
            if reference.answer != len(answer):
                raise BadInputError(
                    f"the artifact's tokenizer makes {len(answer)} tokens of an answer of {found.name}, the "
                    f"checkpoint's {reference.answer}: export the artifact again"
                )
            theirs.write(place, 0, reference.logits)
            place += len(answer)
        table = compare(against_logits(must_be_finite(theirs.read)), ours.read, windows.targets, vocabulary)
        facts = original.facts()
    return Comparison(
        windows=windows,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        table=table,
        lower_bound=False,
        tokenizer=check_tokens(mine, others, "the checkpoint's template and tokenizer"),
        source_matches=source_matches(artifact.manifest, facts["source"]),
        versions=facts["versions"],
        simulated=None,
    )


def _windows(found: Examples, answers: Sequence[Sequence[int]]) -> Windows:
    """All answers behind each other: what predicts a token is counted, where it stands is not."""
    if not all(answers):
        raise BadInputError(f"an answer of {found.name} has no tokens: write one")
    stream = np.concatenate([[0], *answers]).astype(np.int64)
    return Windows(stream, len(stream) - 1, found.name, found.sha256)
