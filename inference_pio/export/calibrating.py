"""The calibration that an export uses: one that is there already, or one that is made on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_pio.calibration.options import CalibrationOptions, Progress, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.calibration.recipes import Recipe, find_recipe
from inference_pio.calibration.result import FACTS, Calibration
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.plan import check_kv_cache
from inference_pio.graphs.targets import find_pair
from inference_pio.graphs.weights import RowReader


@contextmanager
def open_calibration(
    checkpoint: Checkpoint, out: Path, options: ExportOptions, progress: Progress
) -> Iterator[Calibration | None]:
    """The calibration that `options` ask for, None where the recipe and the cache need none.

    A text is calibrated on in a folder beside `out` that is removed when the export succeeds; after an interruption or
    a failure it serves the next export. Raises BadInputError when one is needed and none is asked for, and the other
    way round.
    """
    recipe = find_recipe(options.precision, find_pair(options.target, options.hardware)[0].key)
    if options.block_size is not None:
        recipe = recipe.with_block_size(options.block_size)
    check_kv_cache(checkpoint, options)
    needed = recipe.calibrated or options.kv_cache == "int8"
    if not needed:
        if options.calibration is not None:
            raise BadInputError(f"recipe {recipe.name} rounds without a calibration: leave --calibration out")
        yield None
        return
    if options.calibration is None:
        what = f"recipe {recipe.name}" if recipe.calibrated else "an int8 cache"
        raise BadInputError(
            f"{what} needs text: add --calibration FILE, --calibration default (the bundled texts), or the folder of "
            "a finished calibration"
        )
    folder = Path(options.calibration)
    if (folder / FACTS).is_file():
        with Calibration(folder) as found:
            _check_recipe(found, recipe)
            yield found
        return
    if folder.is_dir():
        raise BadInputError(f"{folder} is a folder without {FACTS}: give a finished calibration or a text file")
    place = out.with_name(f".{out.name}.calibration")
    chosen = _options(options)
    with calibrate(checkpoint.path, place, chosen, force=True, reuse=True, progress=progress) as made:
        yield made
    shutil.rmtree(place, ignore_errors=True)


def row_reader(checkpoint: Checkpoint, calibration: Calibration | None) -> RowReader:
    """Rows of the checkpoint's tensors, with the values of those that a calibration changed."""
    if calibration is None:
        return checkpoint.rows
    return lambda name, start, stop: (
        checkpoint.rows(name, start, stop)
        if calibration.replaced(name) is None
        else calibration.read_replaced(name, start, stop)
    )


def _options(options: ExportOptions) -> CalibrationOptions:
    assert options.calibration is not None
    return CalibrationOptions(
        precision=options.precision,
        target=options.target,
        hardware=options.hardware,
        text=options.calibration,
        samples=options.calibration_samples,
        length=options.calibration_length,
        switches=Switches().without(options.calibration_without),
        block_size=options.block_size,
        layers=options.layers,
        max_memory=options.max_memory,
        threads=options.threads,
        ignore_config_keys=options.ignore_config_keys,
    )


def _check_recipe(found: Calibration, recipe: Recipe) -> None:
    if not recipe.calibrated:
        return  # only the cache's steps are read
    if found.recipe != recipe.name:
        raise BadInputError(
            f"{found.folder} was calibrated for recipe {found.recipe}, the export asks for {recipe.name}: calibrate "
            "again or export with that one"
        )
    if found.facts["rules"] != recipe.rules():
        raise BadInputError(
            f"{found.folder} was calibrated for recipe {recipe.name} with another block size or other overrides: "
            "calibrate again or export with the same ones"
        )
