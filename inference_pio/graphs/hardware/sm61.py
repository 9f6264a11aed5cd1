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
        Card("p4", "Tesla P4", 7.5, 192.0, 5.443, 0, 21.77, display=False),
        Card("p40", "Tesla P40", 22.5, 347.1, 11.76, 0, 47.04, display=False),
    ),
    sources=(
        "capability: developer.nvidia.com/cuda-legacy-gpus; of MX cards the pages below",
        "mx150, gtx-1050, gtx-1050-ti, gtx-1060-3gb, gtx-1060-6gb, gtx-1070, gtx-1070-ti, gtx-1080, gtx-1080-ti: "
        "TechPowerUp's records in github.com/reox007/RightNow-GPU-Database, data/nvidia/all.json",
        "mx250: sysrqmts.com/gpus/compare/nvidia-geforce-mx250-vs-nvidia-geforce-mx450-25w",
        "mx330: fpsbench.com/compare/gpu/nvidia-geforce-mx330-vs-intel-hd-graphics-530",
        "mx350 (1468 MHz; TechPowerUp has one of 937 MHz too): "
        "fpsbench.com/compare/gpu/nvidia-geforce-mx350-vs-intel-hd-graphics-630",
        "p4: techwarrant.com/nvidia-announces-tesla-p40-and-p4-accelerators/amp",
        "p40: cpu-gpu.alldbin.com/videocard/Tesla-P40.html",
        "fp32 is 2 x cores x boost clock, int8 four times that: NVIDIA states 22 of 5.5 (p4) and 47 of 12 (p40), "
        "servethehome.com/nvidia-tesla-p4-tesla-p40-launched",
        "driver: 590 ignores the cards, github.com/NixOS/nixos-hardware/pull/1843, and names 580 for them, issue 1880",
        "CUDA: all of 12 serve them, 13 does not, NVIDIA's release notes quoted in "
        "github.com/pytorch/pytorch/issues/157517; 12.9 is the last before 13.0, "
        "docs.nvidia.com/cuda/archive/13.2.1/cuda-features-archive/contents.html",
        "cuDNN: 9.10.2 lists 6.1, docs.nvidia.com/deeplearning/cudnn/latest/support-matrix/index.html; 9.11 does not, "
        "github.com/immich-app/immich/pull/23110",
        "TensorRT: 8.6.1 deprecates 6.x, github.com/NVIDIA/TensorRT/issues/3589; 10.0 does not run it, issue 3826, "
        "where somebody names 9.1 as one that does: 9 is not on PyPI and was not looked at",
        "onnxruntime-gpu: machine code read from the wheels themselves",
    ),
)
