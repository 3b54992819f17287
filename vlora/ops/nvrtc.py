"""CUDA code compiled once and kept in the user's cache directory.

MLX compiles a kernel that it is given as source anew in every process (`use_disk_cache` is false in
backend/cuda/custom_kernel.cpp of 0.32), with the headers of its own kernels before it: two to three seconds each on the
host of an H200. Code compiled here includes only the 16-bit floats, takes 0.15 s of CPU time, and is passed to MLX as
machine code. The compiler is the one that MLX has loaded. Kept files change no result: the name of each is a digest of
everything that its code depends on.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import mlx.core as mx

from ..system.cache import kernels_root, write_whole
from ..system.private import make_private

VERSIONS = (13, 12)
"""Major versions of CUDA that MLX is built for."""

PACKAGES = {13: ("cu13", "cu13"), 12: ("cuda_nvrtc", "cuda_runtime")}
"""In `nvidia`, of each version: where the compiler is, and where the headers are."""

FLOAT_HEADERS = "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n"
NEEDED_HEADERS = ("cuda_bf16.h", "cuda_fp16.h")

CHECKED_BYTES = 32
"""Length of the digest at a kept file's beginning, by which damage is detected."""

SUCCESS = 0


class CompilationError(RuntimeError):
    """NVRTC refused the source; MLX's own compilation remains."""


@attrs.frozen(eq=False)
class Compiler:
    """NVRTC and the CUDA headers of its version.

    Attributes:
        nvrtc: The library, as `ctypes` has loaded it.
        version: Its own.
        include: The folder of CUDA's headers.
    """

    nvrtc: ctypes.CDLL
    version: tuple[int, int]
    include: Path

    def compile(self, source: str, architecture: str) -> bytes:
        """Compile CUDA C++ to machine code.

        Args:
            source: A whole file; its kernel is `extern "C"`.
            architecture: Such as "sm_90a".

        Returns:
            A cubin.

        Raises:
            CompilationError: The compiler refuses the source, the architecture or the headers.
        """
        program = ctypes.c_void_p()
        options = _options(architecture, self.include)
        library = self.nvrtc
        made = library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"vlora.cu", 0, None, None)
        if made != SUCCESS:
            msg = f"NVRTC makes no program (error {made})"
            raise CompilationError(msg)
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            if library.nvrtcCompileProgram(program, len(options), given) != SUCCESS:
                raise CompilationError(_read(library, program, "ProgramLog").decode(errors="replace"))
            return _read(library, program, "CUBIN")
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))


def compile_cached(source: str, architecture: str) -> bytes | None:
    """Return the machine code of a source, from the user's cache directory if it is kept there.

    Args:
        source: A whole file without includes; the 16-bit floats are included.
        architecture: As for `Compiler.compile`.

    Returns:
        A cubin; None if there is no compiler, or it refuses.
    """
    compiler = find_compiler()
    if compiler is None:
        return None
    source = FLOAT_HEADERS + source
    named = repr((source, _options(architecture), compiler.version))
    folder = kernels_root() / "vlora"
    path = folder / f"{hashlib.sha256(named.encode()).hexdigest()}.cubin"
    is_kept = make_private(folder) is None
    kept = _read_kept(path) if is_kept else None
    if kept is not None:
        return kept
    try:
        code = compiler.compile(source, architecture)
    except CompilationError:
        return None
    if is_kept:
        write_whole(path, hashlib.sha256(code).digest() + code)
    return code


@functools.cache
def find_compiler() -> Compiler | None:
    """Find NVRTC and CUDA's headers; None where one of them is missing."""
    # MLX's own first: a driver that is old enough for that one may be too old for a newer one's code.
    for version in sorted(VERSIONS, key=lambda version: not _is_loaded(version)):
        include = next((path for path in _includes(version) if _has_headers(path)), None)
        if include is None:
            continue
        for name in _libraries(version):
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            major, minor = ctypes.c_int(), ctypes.c_int()
            if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == SUCCESS:
                return Compiler(library, (major.value, minor.value), include)
    return None


@functools.cache
def device_architecture() -> str:
    """Name the GPU's architecture as NVRTC does: "sm_90a" where there is code for that very one, else "sm_89"."""
    name = str(mx.device_info(mx.gpu)["architecture"])
    has_own_code = int(mx.device_info(mx.gpu)["compute_capability_major"]) >= 9  # noqa: PLR2004 - Hopper
    return f"{name}a" if has_own_code else name


def _options(architecture: str, include: Path | None = None) -> list[str]:
    """Return the compiler's options, with the path of the headers if it is given."""
    options = ["--device-as-default-execution-space", f"--gpu-architecture={architecture}"]
    return options if include is None else [*options, f"--include-path={include}"]


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    if getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) != SUCCESS:
        msg = f"NVRTC gives no {what}"
        raise CompilationError(msg)
    content = ctypes.create_string_buffer(size.value)
    if getattr(library, f"nvrtcGet{what}")(program, content) != SUCCESS:
        msg = f"NVRTC gives no {what}"
        raise CompilationError(msg)
    return content.raw


def _read_kept(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:CHECKED_BYTES], content[CHECKED_BYTES:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _is_loaded(version: int) -> bool:
    """Whether this process has loaded a version of the compiler already."""
    try:
        ctypes.CDLL(f"libnvrtc.so.{version}", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except (OSError, AttributeError):
        return False
    return True


def _libraries(version: int) -> Iterator[str]:
    """Yield possible names of the compiler's library; the bare name finds the one that MLX has loaded."""
    name = f"libnvrtc.so.{version}"
    yield name
    for root in _site_packages():
        yield str(root / "nvidia" / PACKAGES[version][0] / "lib" / name)
    for home in _toolkits():
        yield str(home / "lib64" / name)


def _includes(version: int) -> Iterator[Path]:
    """Yield possible folders of the headers, in MLX's order of search (backend/cuda/jit_module.cpp)."""
    for root in _site_packages():
        yield root / "nvidia" / PACKAGES[version][1] / "include"
    for home in _toolkits():
        yield home / "include"


def _toolkits() -> Sequence[Path]:
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    return [Path(home) for home in homes if home]


def _site_packages() -> Sequence[Path]:
    spec = importlib.util.find_spec("mlx")
    return [Path(root).parent for root in (spec.submodule_search_locations if spec is not None else None) or ()]


def _has_headers(folder: Path) -> bool:
    return all((folder / name).is_file() for name in NEEDED_HEADERS)
