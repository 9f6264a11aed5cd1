"""Inside Optimum's environment: load an artifact, generate greedily in every way asked, report tokens or errors."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

asked = json.loads(sys.argv[1])


def outcome(model: Any, prompts: list[list[int]]) -> dict[str, Any]:
    """Generated tokens per prompt (padded on the left, as transformers wants it), or the first line of the error."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    count = asked["new_tokens"]
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    try:
        found = model.generate(ids, attention_mask=mask, **options)
    except Exception as error:  # noqa: BLE001 (whatever fails is what this reports)
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"}
    return {"tokens": found[:, longest:].tolist()}


options = onnxruntime.SessionOptions()
options.log_severity_level = 3
model = ORTModelForCausalLM.from_pretrained(asked["artifact"], session_options=options)
first, second = asked["prompts"]
result: dict[str, Any] = {
    "packages": {name: version(name) for name in ("optimum", "optimum-onnx", "transformers", "onnxruntime", "torch")},
    "head_size_assumed": model.embed_size_per_head,
    "as it is": outcome(model, [first]),
}
model.embed_size_per_head = model.config.head_dim
result["one prompt"] = outcome(model, [first])
result["batch of one length"] = outcome(model, [first, second[: len(first)]])
result["batch of two lengths"] = outcome(model, [first, second])
model.use_io_binding = True
result["io binding"] = outcome(model, [first])
tokenizer = AutoTokenizer.from_pretrained(asked["artifact"])
result["tokenizer"] = [tokenizer(text)["input_ids"] for text in asked["texts"]]
print("\n" + json.dumps(result))
