"""Accounts for tensors: every one of a checkpoint is used exactly once, or its omission is declared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from inference_pio.artifact.printable import listed, printable
from inference_pio.checkpoint.safetensors import FLOAT_DTYPES, TensorInfo
from inference_pio.errors import BadInputError


class Ledger:
    """Collects what a graph builder takes from a checkpoint; `close` reports all that does not add up."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._uses: Counter[str] = Counter()
        self._omissions: list[tuple[re.Pattern[str], str]] = []

    def use(self, name: str, shared: bool = False) -> bool:
        """Notes one use and returns whether the tensor exists; a missing one is reported by `close`.

        A second use of a name is an error unless it says `shared` (the tied embedding used as the head).
        """
        if not (shared and self._uses[name]):
            self._uses[name] += 1
        return name in self._names

    def declare_unused(self, pattern: str, reason: str) -> None:
        """Declares that tensors of this name may stay unused; `*` in it stands for any characters.

        Tensors that match need not exist, and those that are used all the same are no error.
        """
        words = ".*".join(re.escape(part) for part in pattern.split("*"))
        self._omissions.append((re.compile(words, re.DOTALL), reason))

    @property
    def omitted(self) -> dict[str, str]:
        """The tensors left out on purpose, with the reason of the first declaration that covers each."""
        found = {}
        for name in sorted(self._names - self._uses.keys()):
            reasons = (reason for pattern, reason in self._omissions if pattern.fullmatch(name))
            reason = next(reasons, None)
            if reason is not None:
                found[name] = reason
        return found

    def close(self) -> None:
        """Raises `BadInputError` with the missing, unused and doubly used tensors, if there are any."""
        faults = {
            "lacks": sorted(self._uses.keys() - self._names),
            "has tensors its architecture does not use:": sorted(self._names - self._uses.keys() - self.omitted.keys()),
            "has tensors that would be used twice:": sorted(
                name for name, count in self._uses.items() if count > 1 and name in self._names
            ),
        }
        words = [f"{what} {listed(names)} ({len(names)} in all)" for what, names in faults.items() if names]
        if words:
            raise BadInputError(
                f"the checkpoint {'; it '.join(words)}: it is incomplete or of another architecture than "
                "its config.json says"
            )


def check_shape(info: TensorInfo, expected: Sequence[int]) -> None:
    """Raises `BadInputError` unless the tensor has this shape and is BF16, F16 or F32."""
    if info.shape != tuple(expected):
        raise BadInputError(
            f"tensor {printable(info.name)} in {printable(info.file.name)} has the shape {list(info.shape)}, "
            f"but config.json implies {list(expected)}"
        )
    if info.dtype not in FLOAT_DTYPES:
        raise BadInputError(
            f"tensor {printable(info.name)} in {printable(info.file.name)} is {info.dtype}; "
            f"only {', '.join(FLOAT_DTYPES)} weights are supported: export from the original checkpoint"
        )
