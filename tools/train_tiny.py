"""Train the tiny Qwen3 checkpoint that tests and the demo use, on text of the Python distribution.

``python tools/train_tiny.py`` rewrites ``inference_pio/tiny/qwen3`` in about twenty minutes on two free
cores. The held-out text is never trained on. With ``--state FILE`` an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_corpus import HELD_OUT_FILE, Document, chat_documents, training_documents
from tiny_measure import model_perplexity, unigram_perplexity
from tiny_tokenizer import END_OF_TEXT, TURN_END, train_tokenizer, write_json, write_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

BUNDLED = Path(__file__).parents[1] / "inference_pio/tiny/qwen3"
VOCABULARY = 2048
WINDOW = 512
SAMPLE_EVERY = 8  # a test repeats the measure on every eighth window
SAVE_EVERY = 200


@dataclass(frozen=True)
class Plan:
    """How to train; the defaults made the bundled checkpoint."""

    steps: int = 1400
    warmup: int = 100
    cosine: int = 2600  # where the cosine would end; the cool-down comes earlier
    cooldown: int = 600
    block: int = 1024  # tokens that stay together, hence the longest training sequence
    blocks_per_step: int = 4
    learning_rate: float = 1e-2
    final_share: float = 0.02
    weight_decay: float = 0.1
    clip: float = 1.0
    chats: int = 2400
    seed: int = 0


def config_json() -> dict[str, object]:
    """The checkpoint's config.json, with the keys and order of published Qwen3 checkpoints."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": VOCABULARY - 3,
        "eos_token_id": VOCABULARY - 1,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 160,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "max_position_embeddings": 4096,
        "max_window_layers": 5,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
    }


def token_stream(tokenizer, documents: list[Document], seed: int) -> torch.Tensor:
    """All documents in a shuffled order as one int64 stream, each followed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = tokenizer.encode_batch([document.text for document in documents])
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.tensor([token for index in order for token in (*encoded[index].ids, end)])


def batch(stream: torch.Tensor, plan: Plan, step: int) -> torch.Tensor:
    """Token ids of one step: blocks drawn without repetition in an epoch, viewed as rows of 64 to 1024."""
    blocks = (len(stream) - plan.block) // plan.block
    steps_per_epoch = blocks // plan.blocks_per_step
    epoch, place = divmod(step, steps_per_epoch)
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
    # Another shift in each epoch, so that block borders fall elsewhere.
    shift = int(torch.randint(plan.block, (1,), generator=generator))
    chosen = torch.randperm(blocks, generator=generator)[place * plan.blocks_per_step :][: plan.blocks_per_step]
    rows = torch.stack([stream[shift + i * plan.block :][: plan.block] for i in chosen.tolist()])
    # Mostly the window that is measured; short rows keep first positions good, long ones the far positions.
    length = {0: 64, 1: 1024, 2: 128, 3: 1024}.get(step % 10, WINDOW)
    return rows.reshape(-1, min(length, plan.block))


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, a slow cosine, and a linear cool-down to zero over the last steps."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.cosine - plan.warmup)
    share = plan.final_share + (1 - plan.final_share) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return plan.learning_rate * share * min(1.0, (plan.steps - step) / plan.cooldown)


def initialize(model: Qwen3ForCausalLM) -> None:
    """Scale by fan-in; the projections that add to the residual stream start smaller by sqrt(2 x layers)."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        scale = 0.05 if "embed_tokens" in name else parameter.shape[1] ** -0.5
        if "o_proj" in name or "down_proj" in name:
            scale /= math.sqrt(2 * model.config.num_hidden_layers)
        torch.nn.init.normal_(parameter, std=scale)


def make_optimizers(model: Qwen3ForCausalLM, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (it learns faster here than AdamW), AdamW for embedding and norms."""
    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim > 1 and p is not embedding]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    rate, decay = plan.learning_rate, plan.weight_decay
    groups = [{"params": [embedding], "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95)),
    ]


def train(stream: torch.Tensor, plan: Plan, state: Path | None) -> Qwen3ForCausalLM:
    """Train from scratch, or from ``state`` where that file exists; matrix products run in bfloat16."""
    torch.manual_seed(plan.seed)
    model = Qwen3ForCausalLM(Qwen3Config(**config_json())).float().train()
    initialize(model)
    optimizers = make_optimizers(model, plan)
    first = 0
    if state and state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        first = saved["step"]
    for step in range(first, plan.steps):
        ids = batch(stream, plan, step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(plan, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{plan.steps} loss {loss.item():.3f}", flush=True)
        if state and (step + 1) % SAVE_EVERY == 0:
            save_state(state, model, optimizers, step + 1)
    return model.eval()


def save_state(state: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    """Replace ``state`` in one move, so that an interruption leaves the older one."""
    part = state.with_suffix(".part")
    values = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": values, "step": step}, part)
    part.replace(state)


def write_checkpoint(model: Qwen3ForCausalLM, tokenizer, out: Path) -> None:
    """Write weights (bfloat16, published names, the tied head left out), configuration and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.bfloat16().contiguous() for name, value in model.state_dict().items()}
    del tensors["lm_head.weight"]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it private
    write_json(out / "config.json", config_json())
    end, stop = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(TURN_END)
    generation = {"bos_token_id": end, "do_sample": False, "eos_token_id": [stop, end], "pad_token_id": end}
    write_json(out / "generation_config.json", {**generation, "transformers_version": "4.51.0"})
    write_tokenizer(tokenizer, out, int(str(config_json()["max_position_embeddings"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--state", type=Path, help="file that keeps the state, to resume from")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = Plan(steps=options.steps)

    held_out_text = HELD_OUT_FILE.read_text(encoding="utf-8")
    documents, dropped = training_documents(held_out_text)
    print(f"{len(documents)} documents; left out: {', '.join(dropped)}")
    tokenizer = train_tokenizer((document.text for document in documents), VOCABULARY)
    chats = chat_documents(documents, plan.chats, plan.seed)
    stream = token_stream(tokenizer, documents + chats, plan.seed)
    held_out = torch.tensor(tokenizer.encode(held_out_text).ids)
    print(f"{len(stream)} training tokens, {len(held_out)} held-out tokens", flush=True)

    started = time.monotonic()
    model = train(stream, plan, options.state)
    minutes = (time.monotonic() - started) / 60
    write_checkpoint(model, tokenizer, options.out)
    perplexity = model_perplexity(options.out, held_out, WINDOW)
    sample = model_perplexity(options.out, held_out, WINDOW, every=SAMPLE_EVERY)
    unigram = unigram_perplexity(stream, held_out, WINDOW, VOCABULARY)
    figures = {
        "python": platform.python_version(),
        "documents": len(documents),
        "chat_documents": len(chats),
        "training_tokens": len(stream),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": plan.steps,
        "tokens_per_step": plan.block * plan.blocks_per_step,
        "seed": plan.seed,
        "held_out_tokens": len(held_out),
        "window": WINDOW,
        "perplexity": round(perplexity, 4),
        "sample_every": SAMPLE_EVERY,
        "sample_perplexity": round(sample, 4),
        "unigram_perplexity": round(unigram, 4),
        "ratio": round(perplexity / unigram, 5),
    }
    write_json(options.out / "training.json", figures)
    print(f"{minutes:.1f} minutes; {figures}")


if __name__ == "__main__":
    main()
