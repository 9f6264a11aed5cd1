"""`inference-pio export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from tqdm import tqdm

from inference_pio.cli.calibration_options import CalibrationBar, calibration_options, renamed
from inference_pio.cli.common import FILE, FOLDER, SIZE, backend_option, hub_cache, size_text, visible
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.plan import Estimate

TARGET_HELP = "What it is for: ort-cpu, ort-cuda or tensorrt."
HARDWARE_HELP = "A class of machines (sm61) or one of its cards (gtx-1080); auto is the GPU here, or any CPU."


class BarProgress:
    """Prints the estimate and, on a terminal, a progress bar; everything on standard error."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._calibration: CalibrationBar | None = None

    def calibration(self, phase: str, done: int, total: int) -> None:
        if self._calibration is None:
            self._calibration = CalibrationBar()
        self._calibration(phase, done, total)

    def start(self, needed: Estimate) -> None:
        click.echo(f"expected: peak memory {size_text(needed.peak_memory)}, disk {size_text(needed.disk)}", err=True)
        self._bar = tqdm(total=needed.weights, unit="B", unit_scale=True, desc="weights", disable=None)

    def advance(self, written: int) -> None:
        assert self._bar is not None
        self._bar.update(written)

    def finish(self) -> None:
        assert self._bar is not None
        self._bar.close()


@click.command("export")
@click.argument("checkpoint")
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="The artifact's folder; it must not exist.")
@click.option(
    "--target",
    default=ExportOptions.target,
    show_default=True,
    help=TARGET_HELP,
)
@click.option("--hardware", default=ExportOptions.hardware, show_default=True, help=HARDWARE_HELP)
@click.option(
    "--precision",
    default=ExportOptions.precision,
    show_default=True,
    help="A recipe: fp32, fp16, bf16, int8, int4, int4-exact, with --calibration also int8-calibrated, "
    "int4-calibrated, w8a8, w8a8-static or auto; or a .json file. A target takes some of them.",
)
@click.option(
    "--kv-cache",
    default=ExportOptions.kv_cache,
    show_default=True,
    help="Storage of the key/value cache: auto is that of activations; int8 on ort-cpu, with --calibration.",
)
@click.option(
    "--calibration",
    metavar="FILE|default|FOLDER",
    help="Text to calibrate on, the bundled texts, or a finished calibration.",
)
@calibration_options
@click.option("--block-size", type=int, help="Weights per scale: 128, 64, 32 or 16; the largest that fits by default.")
@click.option(
    "--context-length", type=int, help="Longest prompt plus answer; the model's own by default, 4096 for fixed caches."
)
@click.option("--block-layers", type=int, help="tensorrt: layers in a block; as many as 8 GB can build by default.")
@click.option("--layers", type=int, help="Keep only the first N layers, for tests.")
@click.option("--max-memory", type=SIZE, help="Stay below this much memory, or refuse.")
@click.option("--threads", type=int, help="Threads; all cores by default.")
@click.option("--verify", "verify_it", is_flag=True, help="Measure the artifact before it is put in place.")
@click.option("--data", type=FILE, help="With --verify, for models that see: your own questions (JSONL).")
@backend_option
@click.option("--keep-failed", is_flag=True, help="With --verify: keep an artifact that fails, marked as failed.")
@click.option("--force", is_flag=True, help="Replace an artifact that stands at the output.")
@click.option(
    "--ignore-config-key",
    "ignore_config_keys",
    multiple=True,
    metavar="KEY",
    help="An unknown entry of config.json that does not change the maths; may be repeated.",
)
def command(checkpoint: str, out: Path, verify_it: bool, data: Path | None, backend: str, **values: Any) -> None:
    """Export CHECKPOINT, a folder or a hub id in the local Hugging Face cache, to an artifact.

    Weights are streamed: memory stays below half a gigabyte whatever the size of the model.
    """
    from inference_pio.export.pipeline import export

    check_steps(values["calibration"])
    options = ExportOptions(**renamed(values))
    source = locate(checkpoint)
    verifier = None
    if verify_it:
        from inference_pio.cli.verify import artifact_verifier

        check_backend(options.target, options.hardware, backend)
        if data is not None:
            check_questions(source, data, options.ignore_config_keys)
        verifier = artifact_verifier(source, out, data, backend)
    else:
        given = {"--data": data is not None, "--backend": backend != "auto", "--keep-failed": options.keep_failed}
        for name in (name for name, is_given in given.items() if is_given):
            raise BadInputError(f"{name} is for --verify: add it, or leave {name} out")
    artifact = export(source, out, options, progress=BarProgress(), verifier=verifier)
    manifest = artifact.manifest
    total = sum(entry.size for entry in manifest.files.values())
    facts = f"{manifest.recipe.name}, {size_text(total)}, fingerprint {manifest.fingerprint[:12]}"
    click.echo(f"wrote {visible(str(out))}: {facts}")
    if manifest.accuracy is not None:
        verdict = "passed" if manifest.accuracy.passed else "FAILED, kept as asked"
        click.echo(f"gate {manifest.accuracy.gate}: {verdict}")


def check_steps(calibration: str | None) -> None:
    """Raise BadInputError for options of a calibration where none is made."""
    if calibration is not None and not Path(calibration).is_dir():
        return
    context = click.get_current_context()
    for name in ("samples", "sample_length", "without"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise BadInputError(f"{option} is for --calibration with a text: add one, or leave {option} out")


def check_backend(target: str, hardware: str, backend: str) -> None:
    """Raise BadInputError, before any work, for a backend that cannot verify an artifact while it is exported."""
    from inference_pio.graphs.targets import find_pair
    from inference_pio.runtime.backends.choose import backend_name
    from inference_pio.runtime.device import open_gpu
    from inference_pio.verify import VerifyOptions

    key = find_pair(target, hardware)[0].key
    asked = VerifyOptions(backend=backend).engine
    if backend_name(key, asked.backend) == "tensorrt":
        raise BadInputError(
            "--verify needs --backend chain on target tensorrt, whose engines are built of a finished artifact: add "
            "it, or run verify after build"
        )
    kind, _, index = asked.device.partition(":")
    if key.startswith("ort-cuda") and kind != "cpu":
        open_gpu(int(index or 0))


def check_questions(checkpoint: Path, data: Path, ignored_keys: Sequence[str]) -> None:
    """Raise BadInputError, before any work, for questions that cannot be read and for a model that sees no images."""
    from inference_pio.checkpoint.checkpoint import Checkpoint
    from inference_pio.graphs.architectures import read_decoder
    from inference_pio.verify.examples import read_examples

    with Checkpoint.open(checkpoint) as opened:
        _, spec = read_decoder(opened, ignored_keys, None)
    if spec.vision is None:
        raise BadInputError("--data is for models that see images, and this one does not: leave it out")
    read_examples(data)


def locate(checkpoint: str) -> Path:
    """The folder of a checkpoint given as folder or hub id."""
    from inference_pio.checkpoint.location import find_folder

    return find_folder(checkpoint, hub_cache())
