"""Peak memory and time of `inference-pio verify` for a checkpoint of any size.

Random weights may fail a gate; only the cost is of interest here, so exit code 3 counts as done.
"""

from __future__ import annotations

import argparse

from common import (
    artifact,
    checkpoint,
    common_options,
    folder_bytes,
    last_line,
    megabytes,
    one_decimal,
    pio,
    save,
    show,
    work_folder,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--precisions", nargs="+", default=["int8"], help="names, or recipe files")
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--no-simulation", action="store_true", help="as in the command")
    options = parser.parse_args()
    rows = []
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        for precision in options.precisions:
            folder = artifact(source, work, precision)
            extra = ["--no-simulation"] if options.no_simulation else []
            done = pio("verify", folder, "--against", source, "--positions", str(options.positions), *extra)
            expected = next((line for line in done.stderr.splitlines() if line.startswith("expected:")), None)
            rows.append(
                {
                    "weights": precision,
                    "positions": options.positions,
                    "seconds": done.seconds,
                    "peak_bytes": done.peak_bytes,
                    "checkpoint_bytes": folder_bytes(source),
                    "artifact_bytes": folder_bytes(folder),
                    "announced": expected,
                    "exit_code": done.code,
                    "error": None if done.code in (0, 3) else last_line(done.stderr),
                }
            )
    sizes = dict.fromkeys(("peak_bytes", "checkpoint_bytes", "artifact_bytes"), megabytes)
    columns = {"weights": None, "positions": None, "seconds": one_decimal, **sizes, "exit_code": None}
    show(rows, {**columns, "announced": None, "error": None})
    save(options.json, {"checkpoint": source.name, "verifications": rows})


if __name__ == "__main__":
    main()
