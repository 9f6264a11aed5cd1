"""Export with two recipes and fail unless both still are the original model: a build step for CI.

usage: python examples/accuracy_gate.py CHECKPOINT OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.verify import verify


def main(checkpoint: str, out: str) -> int:
    failed = 0
    for precision in ("int8", "int4"):
        artifact = export(checkpoint, Path(out) / precision, ExportOptions(precision=precision, force=True))
        report = verify(artifact.path, checkpoint)
        report.write_html(Path(out) / f"{precision}.html")
        print(f"{precision}: {'passed' if report.passed else 'FAILED'} {'; '.join(report.gate.failures)}")
        failed += not report.passed
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
