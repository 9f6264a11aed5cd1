"""Trains a tiny checkpoint: batches of text, schedule, optimizers, and a loop that can be interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from tiny_corpus import Document
from tiny_families import END_OF_TEXT, Family, Plan
from tiny_muon import Muon
from tiny_routing import Balance, Routers, balance_loss, move_bias
from tiny_start import start_from_qwen3
from tokenizers import Tokenizer

Batches = Callable[[int], dict[str, torch.Tensor]]
"""What the model is called with in each step: `input_ids`, `labels` and whatever else its class takes."""

WINDOW = 512
SAVE_EVERY = 100
RESIDUAL = ("o_proj", "down_proj", "attn.proj", "mlp.linear_fc2")  # what these write is added to the residual stream
TABLES = ("embed_tokens", "lm_head", "pos_embed")  # learned by AdamW


def token_stream(tokenizer: Tokenizer, documents: list[Document], seed: int) -> torch.Tensor:
    """All documents in a shuffled order as one int64 stream, each followed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = tokenizer.encode_batch([document.text for document in documents])
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.tensor([token for index in order for token in (*encoded[index].ids, end)])


def text_batch(stream: torch.Tensor, plan: Plan, step: int) -> torch.Tensor:
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


def text_batches(stream: torch.Tensor, plan: Plan) -> Batches:
    """Batches of text alone; every token is a label."""

    def batches(step: int) -> dict[str, torch.Tensor]:
        ids = text_batch(stream, plan, step)
        return {"input_ids": ids, "labels": ids}

    return batches


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, a slow cosine, and a linear cool-down to zero over the last steps."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.cosine - plan.warmup)
    share = plan.final_share + (1 - plan.final_share) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return plan.learning_rate * share * min(1.0, (plan.steps - step) / plan.cooldown)


def initialize(model: torch.nn.Module) -> None:
    """Scale by fan-in; the projections that add to the residual stream start smaller by sqrt(2 x layers)."""
    layers = model.config.get_text_config().num_hidden_layers
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        fan_in = parameter.shape[-1] if parameter.ndim == 3 else math.prod(parameter.shape[1:])  # 3: fused experts
        scale = 0.05 if name.endswith(("embed_tokens.weight", "pos_embed.weight")) else fan_in**-0.5
        if any(part in name for part in RESIDUAL):
            scale /= math.sqrt(2 * layers)
        torch.nn.init.normal_(parameter, std=scale)


def make_optimizers(model: torch.nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (it learns faster here than AdamW), AdamW for tables, norms and biases."""
    named = dict(model.named_parameters())
    tables = [p for name, p in named.items() if p.ndim > 1 and any(table in name for table in TABLES)]
    matrices = [p for name, p in named.items() if p.ndim > 1 and not any(table in name for table in TABLES)]
    vectors = [p for p in named.values() if p.ndim == 1]
    rate, decay = plan.learning_rate, plan.weight_decay
    groups = [{"params": tables, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [
        Muon(matrices, lr=rate, weight_decay=decay),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95)),
    ]


def train(family: Family, batches: Batches, plan: Plan, state: Path | None) -> torch.nn.Module:
    """Train from scratch, or from ``state`` where that file exists; matrix products run in bfloat16."""
    torch.manual_seed(plan.seed)
    model = family.model().train()
    initialize(model)
    if family.start:
        start_from_qwen3(model, family.start)
    optimizers = make_optimizers(model, plan)
    routers = Routers(model)
    first = 0
    if state and state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        first = saved["step"]
    for step in range(first, plan.steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batches(step), use_cache=False).loss
        seen = routers.take()
        (loss + balance_loss(seen) if family.balance is Balance.LOSS else loss).backward()
        if family.balance is Balance.BIAS:
            move_bias(routers.routers, seen)
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
    routers.close()
    return model.eval()


def save_state(state: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    """Replace ``state`` in one move, so that an interruption leaves the older one."""
    part = state.with_suffix(".part")
    values = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": values, "step": step}, part)
    part.replace(state)
