"""Pascal: GTX 10 series, P4, P40, MX150 to MX350.

fp16 has 1/64 of the rate of fp32 and serves storage alone. onnxruntime-gpu 1.20.2 is the last with machine code for
6.1; later ones up to 1.26.0 run that of 6.0, which has no DP4A. Of TensorRT, 8.5.3.1 is the last on PyPI.
"""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware, LastVersions

HARDWARE = Hardware(
    name="sm61",
    title="Pascal: GTX 10 series, P4, P40, MX150 to MX350",
    dialects=(("tensorrt", "trt85"), ("ort-cuda", "sm61")),
    dtypes=("fp32", "int8"),
    int8="DP4A: four products added into 32 bits, four times the rate of fp32",
    compute_capabilities=("6.1",),
    last=LastVersions(driver="580", cuda="12.9", cudnn="9.10.2", tensorrt="8.6.1", onnxruntime_gpu="1.26.0"),
    cards=(
        Card("mx150", "NVIDIA GeForce MX150", 2, 48.06, 1.177, 0, 4.71),
        Card("mx250", "NVIDIA GeForce MX250", 2, 48.06, 1.215, 0, 4.86),
        Card("mx330", "NVIDIA GeForce MX330", 2, 56.06, 1.224, 0, 4.9),
        Card("mx350", "NVIDIA GeForce MX350", 2, 56.06, 1.879, 0, 7.52),
        Card("gtx-1050", "NVIDIA GeForce GTX 1050", 2, 112.1, 1.862, 0, 7.45),
        Card("gtx-1050-ti", "NVIDIA GeForce GTX 1050 Ti", 4, 112.1, 2.138, 0, 8.55),
        Card("gtx-1060-3gb", "NVIDIA GeForce GTX 1060 3GB", 3, 192.2, 3.935, 0, 15.74),
        Card("gtx-1060-6gb", "NVIDIA GeForce GTX 1060 6GB", 6, 192.2, 4.375, 0, 17.5),
        Card("gtx-1070", "NVIDIA GeForce GTX 1070", 8, 256.3, 6.463, 0, 25.85),
        Card("gtx-1070-ti", "NVIDIA GeForce GTX 1070 Ti", 8, 256.3, 8.186, 0, 32.74),
        Card("gtx-1080", "NVIDIA GeForce GTX 1080", 8, 320.3, 8.873, 0, 35.49),
        Card("gtx-1080-ti", "NVIDIA GeForce GTX 1080 Ti", 11, 484.4, 11.34, 0, 45.36),
        Card("p4", "Tesla P4", 8, 192.0, 5.5, 0, 21.8, display=False),
        Card("p40", "Tesla P40", 24, 347.1, 11.76, 0, 47.04, display=False),
    ),
    sources=(
        "NVIDIA data sheets of the cards; fp32 is 2 x cores x boost clock, int8 four times that (P4: 5.5 and 21.8)",
        "driver: R580 is the last branch for Pascal, github.com/NixOS/nixos-hardware/issues/1880",
        "cuDNN: docs.nvidia.com/deeplearning/cudnn/latest/support-matrix, 9.11 dropped sm_70 and older",
        "TensorRT: github.com/NVIDIA/TensorRT/issues/3589 and 3826",
        "onnxruntime-gpu: machine code read from the wheels themselves",
    ),
)
