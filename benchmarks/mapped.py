"""An artifact larger than memory: loaded, mapped, mapped under a hard memory limit, and with a dropped page cache.

Every row is a fresh process that runs one prompt to warm up and measures another, but for the one with a dropped page
cache, which measures its first; all must give the same tokens. The limit is a control group's (version 1 or 2, needs
root), on everything the process uses, pages of files included.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import (
    artifact,
    checkpoint,
    child,
    common_options,
    folder_bytes,
    last_line,
    megabytes,
    one_decimal,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)

GROUPS = Path("/sys/fs/cgroup")
SHOWN = {
    "how": None,
    "same_tokens": None,
    "load_s": two_decimals,
    "prefill_tokens_per_s": one_decimal,
    "decode_tokens_per_s": one_decimal,
    "anonymous_bytes": megabytes,
    "steady_rss_bytes": megabytes,
    "read_bytes_per_token": megabytes,
}


def drop_from_page_cache(files: list[Path]) -> None:
    """Let the system forget files; pages that a process has mapped would stay."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A control group with a memory limit; raises OSError where none can be made."""
    old = (GROUPS / "memory").is_dir()
    folder = (GROUPS / "memory" if old else GROUPS) / f"inference-pio-bench-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
        yield folder
    finally:
        folder.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=0.75, help="hard limit, as a share of the artifact")
    options = parser.parse_args()
    with work_folder(options.work) as work, tempfile.TemporaryDirectory(dir=options.work) as cache_dir:
        source = checkpoint(options.checkpoint, options.layers, work)
        folder = artifact(source, work, options.precision)
        size = folder_bytes(folder)
        asked = {
            "artifact": str(folder),
            "cache_dir": cache_dir,
            "prefix_cache_bytes": 0,
            "threads": options.threads,
            "prompt_tokens": options.prompt_tokens,
            "new_tokens": options.new_tokens,
            "seed": 0,
            "sampling": {"temperature": 0.0},
        }
        warm(folder)
        rows = [row("loaded", asked | {"map_weights": "off"}, options, None)]
        mapped = asked | {"map_weights": "on"}
        rows.append(row("mapped, first open", mapped, options, rows[0]))
        rows.append(row("mapped", mapped, options, rows[0]))
        files = [*Path(cache_dir).glob("mapped/*/*.data"), *folder.glob("*.data")]
        cold = mapped | {"warm_up": False}
        drop_from_page_cache(files)
        rows.append(row("mapped, dropped page cache", cold, options, rows[0]))
        limited = f"mapped, limit {options.limit:.0%} of the artifact"
        try:
            drop_from_page_cache(files)  # so that its pages count as this process's
            with control_group(int(options.limit * size)) as group:
                rows.append(row(limited, mapped | {"control_group": str(group)}, options, rows[0]))
        except OSError as error:
            print(f"{limited}: no control group can be made here ({error.strerror})")
    for found in rows:
        found["anonymous_share"] = found["anonymous_bytes"] / size
    show(rows, {**SHOWN, "anonymous_share": two_decimals})
    print(f"artifact: {megabytes(size)}")
    save(options.json, {"checkpoint": source.name, "artifact_bytes": size, "rows": rows})


def row(how: str, asked: dict[str, Any], options: argparse.Namespace, first: dict[str, Any] | None) -> dict[str, Any]:
    """One process's figures."""
    done = child("generate_ours", asked)
    if done.code != 0:
        raise SystemExit(f"{how}: exit code {done.code}: {last_line(done.stderr)}")
    result = done.result
    result |= {
        "how": how,
        "same_tokens": "-" if first is None else str(result["tokens"] == first["tokens"]),
        "read_bytes_per_token": result["read_bytes"] / (options.prompt_tokens + options.new_tokens),
    }
    return result


if __name__ == "__main__":
    main()
