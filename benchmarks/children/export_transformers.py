"""Export a checkpoint with transformers' own ONNX exporter, or with torch.onnx.export where that fails."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
from process import report, spec
from transformers import AutoModelForCausalLM

asked = spec()
model = AutoModelForCausalLM.from_pretrained(asked["checkpoint"], dtype=torch.float32).eval()
ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3]])
if asked["how"] == "exporters":
    from transformers.exporters import OnnxConfig, OnnxExporter

    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    exporter = OnnxExporter()
    options = OnnxConfig(dynamic=True, ort_fusions="cpu")
    exporter.export_for_generation(model, inputs, options).save_pretrained(asked["out"])
else:
    Path(asked["out"]).mkdir()
    model.config.use_cache = False
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    torch.onnx.export(
        model,
        (),
        str(Path(asked["out"]) / "model.onnx"),
        kwargs={"input_ids": ids},
        dynamic_shapes={"input_ids": {0: batch, 1: length}},
        opset_version=23,
        dynamo=True,
        external_data=True,
    )
report({})
