"""Nodes of every graph in a folder, by operator; weights stay on the disk."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import onnx
from process import report, spec

operators: Counter[str] = Counter()
graphs = {}
for file in sorted(Path(spec()["folder"]).rglob("*.onnx")):
    model = onnx.load(file, load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    operators.update(node.op_type for node in nodes)
    graphs[file.name if file.name not in graphs else str(file.parent.name)] = len(nodes)
report({"graphs": graphs, "nodes": sum(graphs.values()), "operators": dict(operators.most_common())})
