"""NVRTC, NVIDIA's compiler as a library: CUDA C++ to machine code, without a driver or a GPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from inference_pio.errors import BadInputError
from inference_pio.machine.libraries import packaged

LIBRARY = "libnvrtc.so.12"
"""Version 13 can no longer compile for sm_61."""
OPTIONS = ("--std=c++17", "--ptxas-options=-v")


@dataclass(frozen=True)
class Compiled:
    """`image` is a cubin, or PTX that the driver translates; `log` is what the compiler and ptxas said."""

    image: bytes
    ptx: str
    log: str


class Nvrtc:
    """The library, from the package nvidia-cuda-nvrtc-cu12 or the system; raises BadInputError without it."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(str(next(iter(packaged(LIBRARY)), LIBRARY)))
        except OSError as error:
            raise BadInputError(
                f"the CUDA kernels are compiled with NVRTC 12, which cannot be loaded ({error}): "
                "pip install 'inference-pio[kernels]'"
            ) from None
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def architectures(self) -> list[int]:
        """Compute capabilities that it makes machine code for, as 61 for 6.1, in order."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return sorted(found)

    def target(self, capability: int) -> str:
        """`sm_61` for a GPU that it knows, `compute_120` (PTX of the closest older one) for a newer GPU.

        Raises BadInputError for GPUs before 6.1: they have no DP4A.
        """
        known = [architecture for architecture in self.architectures() if 61 <= architecture <= capability]
        if not known:
            raise BadInputError(
                f"the CUDA kernels need compute capability 6.1 and this GPU has {capability // 10}.{capability % 10}: "
                "use another GPU or the CPU"
            )
        return f"{'sm' if known[-1] == capability else 'compute'}_{known[-1]}"

    def compile(self, source: str, name: str, headers: dict[str, str], target: str) -> Compiled:
        """Compile CUDA C++; `headers` are what it may include, by name. Raises BadInputError with the first errors."""
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
        names = (ctypes.c_char_p * len(headers))(*(header.encode() for header in headers))
        encoded = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={target}")]
        options = (ctypes.c_char_p * len(encoded))(*encoded)
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), len(headers), texts, names
        )
        try:
            status = self._library.nvrtcCompileProgram(program, len(encoded), options)
            log = self._read(program, "nvrtcGetProgramLog").decode().rstrip("\0")
            if status:
                errors = " ".join(line for line in log.splitlines() if "error" in line) or self._text(status)
                raise BadInputError(f"{name} does not compile for {target}: {errors}")
            ptx = self._read(program, "nvrtcGetPTX").rstrip(b"\0")
            image = self._read(program, "nvrtcGetCUBIN") if target.startswith("sm_") else ptx + b"\0"
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))
        return Compiled(image, ptx.decode(), log)

    def _read(self, program: ctypes.c_void_p, function: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{function}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(function, program, text)
        return text.raw

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise BadInputError(f"{function} of {LIBRARY} failed: {self._text(status)}")

    def _text(self, status: int) -> str:
        return str(self._library.nvrtcGetErrorString(status).decode())
