"""This process's own memory, and how a child reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def spec() -> dict[str, Any]:
    """What the parent asks."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def report(result: dict[str, Any]) -> None:
    """Hand the result to the parent: the last line of standard output."""
    print("\n" + json.dumps(result), flush=True)


def report_image(features_s: float, first_token_s: float, prompt_tokens: int) -> None:
    """`report` for a process that was asked about an image, with its memory."""
    memory = {"steady_rss_bytes": status_bytes("VmRSS"), "peak_rss_bytes": status_bytes("VmHWM")}
    report({"features_s": features_s, "first_token_s": first_token_s, "prompt_tokens": prompt_tokens, **memory})


def prompts(seed: int, vocab_size: int, tokens: int) -> Any:
    """Two random prompts, int64 [2, tokens]; an id's chance falls with its number, as it does in texts.

    Uniform ids would touch about every page of a mapped token table, which no text does.
    """
    import numpy as np

    ranks = np.random.default_rng(seed).random((2, tokens))
    return (vocab_size**ranks).astype(np.int64) - 1


def status_bytes(key: str) -> int:
    """A size of /proc/self/status: VmRSS is resident now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def disk_bytes_read() -> int:
    """What this process made the system read from disk so far, page faults included."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes:")).split()[1])
