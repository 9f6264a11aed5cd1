"""Train a tiny checkpoint that tests and the demo use, on text of the Python distribution.

``python tools/train_tiny.py qwen3`` rewrites ``inference_pio/tiny/qwen3`` in about twenty minutes on two free
cores. The held-out text is never trained on. With ``--state FILE`` an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_chats import all_docstrings, question_chats, render, tool_chats
from tiny_corpus import HELD_OUT_FILE, Document, training_documents
from tiny_families import VOCABULARY, Family, Plan, family, names
from tiny_images import held_out_samples
from tiny_measure import expert_shares, load, model_perplexity, unigram_perplexity
from tiny_publish import write_checkpoint
from tiny_tokenizer import add_tokens, text_entries, train_tokenizer, write_json
from tiny_training import WINDOW, text_batches, token_stream, train
from tiny_vision import Collator, answer_accuracy, mixed_batches, swapped
from tokenizers import Tokenizer

BUNDLED = Path(__file__).parents[1] / "inference_pio/tiny"
SAMPLE_EVERY = 8  # a test repeats the measure on every eighth window


def make_tokenizer(chosen: Family, documents: list[Document]) -> Tokenizer:
    """Qwen3's text entries are learned from ``documents`` and shared by all families; each adds its own."""
    if chosen.name == "qwen3":
        tokenizer = train_tokenizer((document.text for document in documents), VOCABULARY - len(chosen.tokens.special))
    else:
        tokenizer = text_entries(BUNDLED / "qwen3/tokenizer.json")
    add_tokens(tokenizer, chosen.tokens)
    return tokenizer


def make_chats(chosen: Family, documents: list[Document]) -> list[Document]:
    """Conversations in the form of the family's chat template."""
    plan, facts = chosen.plan, all_docstrings(documents)
    chats = question_chats(facts, plan.chats, plan.seed, chosen.thinks)
    return render(chats + tool_chats(facts, plan.tool_chats, plan.seed), chosen.chat_template)


def measure(folder: Path, stream: torch.Tensor, held_out: torch.Tensor) -> dict[str, Any]:
    """Perplexity of the checkpoint and of unigrams on the held-out text, and how often it uses its experts."""
    perplexity = model_perplexity(folder, held_out, WINDOW)
    unigram = unigram_perplexity(stream, held_out, WINDOW, VOCABULARY)
    figures = {
        "held_out_tokens": len(held_out),
        "window": WINDOW,
        "perplexity": round(perplexity, 4),
        "sample_every": SAMPLE_EVERY,
        "sample_perplexity": round(model_perplexity(folder, held_out, WINDOW, every=SAMPLE_EVERY), 4),
        "unigram_perplexity": round(unigram, 4),
        "ratio": round(perplexity / unigram, 5),
    }
    shares = expert_shares(folder, held_out, WINDOW, every=SAMPLE_EVERY)
    return {**figures, "expert_shares": shares} if shares else figures


def measure_images(folder: Path, collator: Collator) -> dict[str, Any]:
    """How many answers about held-out images are right, word for word and by token, with the images and with others."""
    model, samples = load(folder), held_out_samples()
    answers, tokens = answer_accuracy(model, collator, samples)
    wrong_answers, wrong_tokens = answer_accuracy(model, collator, swapped(samples))
    return {
        "image_samples": len(samples),
        "answer_accuracy": round(answers, 4),
        "answer_token_accuracy": round(tokens, 4),
        "swapped_answer_accuracy": round(wrong_answers, 4),
        "swapped_answer_token_accuracy": round(wrong_tokens, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=names())
    parser.add_argument("--out", type=Path, help="folder to write the checkpoint to (default: the bundled one)")
    parser.add_argument("--steps", type=int, help="fewer or more than the family's plan says")
    parser.add_argument("--state", type=Path, help="file that keeps the state, to resume from")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = family(options.family)
    plan: Plan = replace(chosen.plan, steps=options.steps or chosen.plan.steps)
    out = options.out or BUNDLED / chosen.name

    held_out_text = HELD_OUT_FILE.read_text(encoding="utf-8")
    documents, dropped = training_documents(held_out_text)
    print(f"{len(documents)} documents; left out: {', '.join(dropped)}")
    tokenizer = make_tokenizer(chosen, documents)
    chats = make_chats(chosen, documents)
    stream = token_stream(tokenizer, documents + chats, plan.seed)
    held_out = torch.tensor(tokenizer.encode(held_out_text).ids)
    print(f"{len(stream)} training tokens, {len(held_out)} held-out tokens", flush=True)

    started = time.monotonic()
    batches = text_batches(stream, plan)
    if chosen.preprocessor is not None:
        collator = Collator(tokenizer, chosen.chat_template, chosen.preprocessor)
        batches = mixed_batches(stream, plan, collator)
    model = train(chosen, batches, plan, options.state)
    minutes = (time.monotonic() - started) / 60
    write_checkpoint(chosen, model, tokenizer, out)
    figures = {
        "python": platform.python_version(),
        "documents": len(documents),
        "chat_documents": len(chats),
        "training_tokens": len(stream),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": plan.steps,
        "tokens_per_step": plan.block * plan.blocks_per_step,
        "seed": plan.seed,
        **measure(out, stream, held_out),
    }
    if chosen.preprocessor is not None:
        figures |= measure_images(out, collator)
    write_json(out / "training.json", figures)
    print(f"{minutes:.1f} minutes; {figures}")


if __name__ == "__main__":
    main()
