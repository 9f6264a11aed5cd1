"""What the benchmark scripts share: fresh processes, their time and peak memory, checkpoints, tables, results.

This module and the scripts import nothing heavy, because a process inherits the size of the one that started it in
its own peak (`ru_maxrss`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGES = ("inference-pio", "onnxruntime", "onnxruntime-genai", "onnx", "numpy", "tokenizers", "torch", "transformers")
MB = 1e6


@dataclass(frozen=True)
class Finished:
    """A process that has ended: exit code, wall time, largest resident size (mapped files included), output."""

    code: int
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object in the last line of standard output; RuntimeError when the process failed."""
        if self.code != 0:
            raise RuntimeError(f"exit code {self.code}: {last_line(self.stderr)}")
        found: dict[str, Any] = json.loads(self.stdout.strip().splitlines()[-1])
        return found


def run(command: Sequence[str | Path]) -> Finished:
    """Run a command to its end; the peak is the one that `/usr/bin/time -v` reports."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        texts = [stream.read().decode("utf-8", "replace") for stream in (out, err)]
    return Finished(process.returncode, seconds, usage.ru_maxrss * 1024, texts[0], texts[1])


def child(name: str, spec: dict[str, Any], python: Path | None = None) -> Finished:
    """Run `children/NAME.py` in a fresh interpreter with `spec` as its JSON argument."""
    return run([python or sys.executable, HERE / "children" / f"{name}.py", json.dumps(spec)])


def pio(*arguments: str | Path) -> Finished:
    """Run the `inference-pio` command of this environment."""
    return run([Path(sys.executable).with_name("inference-pio"), *arguments])


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder for checkpoints and exports: `given`, which is kept and reused, or one that is removed afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="inference-pio-bench-") as folder:
        yield Path(folder)


def checkpoint(source: str, layers: int | None, work: Path) -> Path:
    """A checkpoint folder as it is, or a random checkpoint of the shape called `source`, written once."""
    if Path(source).is_dir():
        return Path(source)
    folder = work / (source if layers is None else f"{source}-{layers}-layers")
    if not (folder / "config.json").exists():
        extra = [] if layers is None else ["--layers", str(layers)]
        done = run([sys.executable, ROOT / "tools" / "random_checkpoint.py", source, folder, *extra])
        if done.code != 0:
            raise SystemExit(last_line(done.stderr))
    return folder


def artifact(source: Path, work: Path, precision: str, block_size: int | None = None) -> Path:
    """An artifact of `source`, exported once; `precision` is a recipe's name or file."""
    folder = work / f"{source.name}-ours-{Path(precision).stem}{f'-block{block_size}' if block_size else ''}"
    if not folder.exists():
        extra = ["--block-size", str(block_size)] if block_size else []
        done = pio("export", source, "-o", folder, "--precision", precision, *extra)
        if done.code != 0:
            raise SystemExit(last_line(done.stderr))
    return folder


def genai_export_command(source: Path, out: Path, precision: str, cache: Path) -> list[str | Path]:
    """onnxruntime-genai's own builder with its defaults for the CPU."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    return [*builder, "-i", source, "-o", out, "-p", precision, "-e", "cpu", "-c", cache]


def warm(folder: Path) -> None:
    """Read every file once, so that all contenders find it in the page cache."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with open(file, "rb", buffering=0) as stream:
                while stream.read(1 << 22):
                    pass


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every script: what to measure, where to keep it, where to write the results."""
    parser.add_argument("checkpoint", help="checkpoint folder, or a shape of tools/shapes (random weights)")
    parser.add_argument("--layers", type=int, help="layers of a random checkpoint (the published number by default)")
    parser.add_argument("--work", type=Path, help="keep checkpoints and exports here and reuse them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")


def machine() -> dict[str, Any]:
    """Facts about this machine and its software that the figures depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text("utf-8").splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def show(rows: Sequence[dict[str, Any]], columns: Mapping[str, Callable[[Any], str] | None]) -> None:
    """Print rows as a Markdown table; a column's function formats its values, a missing value is a dash."""
    cells = [list(columns)]
    for row in rows:
        cells.append([_cell(row.get(name), form) for name, form in columns.items()])
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for number, line in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def _cell(value: Any, form: Callable[[Any], str] | None) -> str:
    if value is None:
        return "-"
    return form(value) if form else str(value)


def megabytes(value: float) -> str:
    return f"{value / MB:,.0f} MB"


def one_decimal(value: float) -> str:
    return f"{value:.1f}"


def two_decimals(value: float) -> str:
    return f"{value:.2f}"


def scientific(value: float) -> str:
    return f"{value:.1e}"


def percent(value: float) -> str:
    return f"{value:.2%}"


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def save(path: Path | None, results: dict[str, Any]) -> None:
    """Write results with the machine's facts as JSON where asked."""
    if path is not None:
        text = json.dumps({"machine": machine(), **results}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"results are in {path}")


def genai_export(source: Path, work: Path, precision: str) -> Path:
    """An export of onnxruntime-genai's builder, made once."""
    folder = work / f"{source.name}-genai-{precision}"
    if not (folder / "genai_config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        done = run(genai_export_command(source, folder, precision, work / "genai-cache"))
        if done.code != 0:
            raise SystemExit(last_line(done.stderr))
    return folder
