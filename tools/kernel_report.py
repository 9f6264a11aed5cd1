"""What the CUDA kernels need of a GPU: registers, shared memory, spills and DP4A, read from the compiler's output.

python tools/kernel_report.py        # the table of docs/kernels.md
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from inference_pio.runtime.kernels.nvrtc import Compiled, Nvrtc
from inference_pio.runtime.kernels.plans import names
from inference_pio.runtime.kernels.sources import compile_program

KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<target>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<more>[^\n]*)",
    re.DOTALL,
)
THREADS, REGISTERS, SHARED, BLOCKS = 2048, 65536, 96 << 10, 32
"""What a multiprocessor of compute capability 6.1 has (CUDA C++ Programming Guide 12, table of technical facts)."""
PASCAL_DP4A = 0xA7F
"""Upper 13 bits of IDP.4A, what DP4A is in the machine code of sm_61: found with one, two and many DP4A in a kernel."""


@dataclass(frozen=True)
class Resources:
    """Of one kernel; bytes of `shared` memory for a block, of `spills` (and the stack) for a thread.

    `dp4a` counts instructions of the machine code where that can be told, which is on sm_61, else those of the PTX.
    `threads` is the largest block that it was compiled for.
    """

    name: str
    threads: int
    registers: int
    shared: int
    spills: int
    dp4a: int

    @property
    def warps(self) -> int:
        """Warps that a multiprocessor of compute capability 6.1 runs at once; registers come in eights."""
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * self.threads)
        by_shared = SHARED // self.shared if self.shared else BLOCKS
        return min(THREADS // self.threads, by_registers, by_shared, BLOCKS) * self.threads // 32


def resources(compiled: Compiled, target: str) -> list[Resources]:
    """What ptxas reports for every kernel of a program; raises ValueError when it reports less than it compiled."""
    found = []
    for match in KERNEL.finditer(compiled.log):
        shared = re.search(r"(\d+) bytes smem", match["more"])
        spills = sum(int(match[key]) for key in ("stack", "stores", "loads"))
        count = machine_dp4a if target == "sm_61" else ptx_dp4a
        name, registers = match["name"], int(match["registers"])
        (threads,) = re.findall(rf"\.entry {name}\([^)]*\)\s*\.maxntid (\d+)", compiled.ptx)
        sizes = (int(threads), registers, int(shared[1]) if shared else 0, spills)
        found.append(Resources(name, *sizes, count(compiled, name)))
    if {kernel.name for kernel in found} != set(re.findall(r"\.entry (\w+)", compiled.ptx)):
        raise ValueError(f"the compiler's report is not understood:\n{compiled.log}")
    return sorted(found, key=lambda kernel: kernel.name)


def ptx_dp4a(compiled: Compiled, name: str) -> int:
    """DP4A in the PTX of a kernel."""
    start = compiled.ptx.index(f".entry {name}(")
    return compiled.ptx[start : compiled.ptx.index("\n}", start)].count("dp4a.s32.s32")


def machine_dp4a(compiled: Compiled, name: str) -> int:
    """DP4A in the sm_61 machine code of a kernel: 64-bit words, of which every fourth schedules the next three."""
    code = section(compiled.image, f".text.{name}")
    words = struct.unpack(f"<{len(code) // 8}Q", code)
    return sum(word >> 51 == PASCAL_DP4A for index, word in enumerate(words) if index % 4)


def section(elf: bytes, name: str) -> bytes:
    """A section of a 64-bit ELF file (System V ABI); raises KeyError when it is not there."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, strings = struct.unpack_from("<HHH", elf, 0x3A)
    places = []
    for index in range(count):
        label, *_, offset, length = struct.unpack_from("<IIQQQQ", elf, table + index * size)
        places.append((label, offset, length))
    labels = elf[places[strings][1] :][: places[strings][2]]
    for label, offset, length in places:
        if labels[label : labels.index(b"\0", label)].decode() == name:
            return elf[offset : offset + length]
    raise KeyError(name)


def report(target: str) -> list[Resources]:
    """Every kernel, compiled now."""
    nvrtc = Nvrtc()
    return [k for program in names() for k in resources(compile_program(nvrtc, program, target), target)]


def table(kernels: list[Resources]) -> str:
    """Kernels for sm_61 as a table in Markdown."""
    rows = [
        "| kernel | threads | registers | shared bytes | spilled bytes | DP4A | warps at once |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel in kernels:
        sizes = (kernel.threads, kernel.registers, kernel.shared, kernel.spills, kernel.dp4a, kernel.warps)
        rows.append(f"| `{kernel.name}` | " + " | ".join(map(str, sizes)) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(report("sm_61")))
