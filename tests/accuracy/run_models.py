"""Run every model of a folder once: `run_models.py FOLDER plain|engine`; onnxruntime and numpy only.

NAME.onnx gets the inputs of NAME.npz and leaves its output in NAME.<route>.npy. The route `engine` sets the session
option that the engine sets where products saturate. Prints JSON: whether they do.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from inference_pio.runtime.cpu import PRECISE_PRODUCTS, products_saturate

folder, route = Path(sys.argv[1]), sys.argv[2]
saturate = products_saturate(onnxruntime)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
if route == "engine" and saturate:
    options.add_session_config_entry(PRECISE_PRODUCTS, "1")
for model in sorted(folder.glob("*.onnx")):
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with np.load(model.with_suffix(".npz")) as inputs:
        np.save(model.with_suffix(f".{route}.npy"), session.run(None, dict(inputs))[0])
print(json.dumps({"saturate": saturate}))
