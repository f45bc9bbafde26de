#!/usr/bin/env python3
"""Compiles the kernels of Sources/ApusCUDA to CUBINs, one a source, on any machine: no GPU, no CUDA toolkit.

  Benchmarks/cuda/compile.py [--architecture sm_90] [--out Benchmarks/cuda/build]

Needs `pip install nvidia-cuda-nvrtc` in the Python that runs it."""
import argparse
import ctypes
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent.parent / "Sources/ApusCUDA/Kernels"


def nvrtc():
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    for folder in (packages / "cu13/lib", packages / "cuda_nvrtc/lib"):
        libraries = [p for p in sorted(folder.glob("libnvrtc.so.*")) if "alt" not in p.name]
        if libraries:
            # Opened by a bare name later, which finds what is open already.
            for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(libraries[-1]))
    raise SystemExit(f"no NVRTC under {packages}: pip install nvidia-cuda-nvrtc")


def strings(values):
    return (ctypes.c_char_p * len(values))(*values)


def compile_source(library, path, headers, architecture):
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(
        ctypes.byref(program), path.read_bytes(), path.name.encode(), len(headers),
        strings([h.read_bytes() for h in headers]), strings([h.name.encode() for h in headers]))
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    code = library.nvrtcCompileProgram(program, len(options), strings(options))
    size = ctypes.c_size_t()
    if code != 0:
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        raise SystemExit(f"{path.name}: {log.value.decode()}")
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    image = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, image)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return image.raw


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--out", type=Path, default=HERE / "build")
    arguments = parser.parse_args()
    library, headers = nvrtc(), sorted(KERNELS.glob("*.cuh"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(KERNELS.glob("*.cu")):
        image = compile_source(library, path, headers, arguments.architecture)
        (arguments.out / f"{path.stem}.cubin").write_bytes(image)
        print(f"{path.name}: {len(image)} bytes for {arguments.architecture}")


if __name__ == "__main__":
    main()
