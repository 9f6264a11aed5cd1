"""`inference-pio build`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from tqdm import tqdm

from inference_pio.artifact.bundle import Artifact
from inference_pio.cli.common import FOLDER, SIZE, cache_dir, json_option, size_text, visible, write_json
from inference_pio.errors import BadInputError

if TYPE_CHECKING:
    from inference_pio.build.options import BuiltEngine


class BarProgress:
    """A bar of engines on a terminal, on standard error."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def start(self, graph: str, number: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, unit="engine", disable=None)
        self._bar.set_description(graph)

    def done(self, engine: BuiltEngine) -> None:
        assert self._bar is not None
        self._bar.update(1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def check_alone() -> None:
    """Raise BadInputError for options of building, which `--calibration-cache` does not do."""
    context = click.get_current_context()
    for name in ("max_context", "max_image_tokens", "workspace", "device", "force"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise BadInputError(f"{option} is for building, and --calibration-cache builds nothing: leave one out")


@click.command("build")
@click.argument("artifact", type=FOLDER)
@click.option("--max-context", type=int, help="Longest sequence in tokens; the model's, at most 4096, by default.")
@click.option("--max-image-tokens", type=int, help="Largest image in tokens; the model's, at most 256, by default.")
@click.option("--workspace", type=SIZE, help="GPU memory that a kernel may take while it runs; no limit by default.")
@click.option("--device", type=int, default=0, show_default=True, help="The GPU's number.")
@click.option("--force", is_flag=True, help="Build again what was built before.")
@click.option(
    "--calibration-cache",
    "caches",
    type=FOLDER,
    help="Build nothing: write TensorRT 8.5's calibration caches of the artifact's scales into this folder.",
)
@json_option
def command(artifact: Path, caches: Path | None, json_out: str | None, **values: Any) -> None:
    """Build the TensorRT engines of ARTIFACT for the GPU of this machine, into the user's cache.

    Each part is built in a process of its own; what is there already is kept, so an interrupted build goes on.
    """
    opened = Artifact.open(artifact)
    if caches is not None:
        check_alone()
        from inference_pio.build.calibration_cache import write_calibration_caches

        written = write_calibration_caches(opened, caches)
        if json_out is not None:
            write_json({"files": [str(file) for file in written]}, json_out)
        else:
            click.echo(f"wrote {len(written)} calibration caches to {visible(str(caches))}")
        return
    from inference_pio.build.options import BuildOptions
    from inference_pio.build.pipeline import build

    bar = BarProgress()
    try:
        report = build(opened, BuildOptions(**values), cache_dir(), bar)
    finally:
        bar.close()
    if json_out is not None:
        write_json(asdict(report), json_out)
        return
    for engine in report.engines:
        took = "was there" if engine.reused else f"{engine.seconds:.0f} s"
        click.echo(f"{engine.graph:<16} {size_text(engine.size):>10}  {took}")
    images = "" if report.image_tokens is None else f", images up to {report.image_tokens} tokens"
    click.echo(f"for {visible(report.gpu)} with TensorRT {report.tensorrt}, up to {report.cache_rows} tokens{images}")
