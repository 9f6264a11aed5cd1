"""x86-64 with AVX2 and no VNNI: most laptops and desktops of 2013 to 2020."""

from __future__ import annotations

from inference_pio.graphs.hardware.hardware import Card, Hardware

HARDWARE = Hardware(
    name="cpu-avx2",
    title="x86-64 with AVX2 and no VNNI: most laptops and desktops of 2013 to 2020",
    dialects=(("ort-cpu", ""),),
    dtypes=("fp32", "int8"),
    int8="pairs of products in 16 bits, twice the rate of fp32; u8 x s8 saturates there, so exact kernels are chosen",
    cpu_classes=("avx2", "avx512", "avx-vnni", "avx512-vnni"),
    cards=(
        Card("i5-10210u", "Intel(R) Core(TM) i5-10210U CPU @ 1.60GHz", 0, 42.7, 0.538, 0, 1.075),
        Card("ryzen-5-5600x", "AMD Ryzen 5 5600X 6-Core Processor", 0, 51.2, 0.883, 0, 1.766),
    ),
    sources=(
        "i5-10210u: 4 cores in pastebin.com/cw2S4nYB, 4.2 GHz in github.com/zulqarDOTnet/mea-pay, README.md; two "
        "channels of DDR4-2666, notebookcheck.net/i5-10310U-vs-R5-PRO-4650U_12202_12193.247596.0.html (same chip)",
        "ryzen-5-5600x: 6 cores and 4.6 GHz in winenfood.com/a-detailed-breakdown-of-amd-ryzen-5-5600x-specs; two "
        "channels of DDR4-3200 in arvutitark.ee/en/pc-components/processors-cpu/"
        "amd-ryzen-5-5600-processor-35-ghz-32-mb-l3-box-1128834 (same series)",
        "two fused multiply-adds of eight numbers per cycle: stackoverflow.com/questions/15655835 (Intel), "
        "wlog.flatlib.jp/2024/01/13/ryzen-zen3-vfpbench (Zen 3)",
    ),
)
