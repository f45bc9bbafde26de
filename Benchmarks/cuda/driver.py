"""The CUDA driver by ctypes: devices, memory, modules and launches, and no more."""
import ctypes
import hashlib
from pathlib import Path

import numpy as np


class CUDAError(Exception):
    pass


class Driver:
    """One device. `library` is libcuda.so.1, or the emulator, whose names begin with `emulated_`."""

    def __init__(self, library="libcuda.so.1", prefix=""):
        self.library, self.prefix = ctypes.CDLL(library), prefix
        self.call("cuInit", 0)
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.device = device
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, 256, device)
        self.name = name.value.decode()
        self.capability = tuple(self.attribute(a) for a in (75, 76))
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        code = getattr(self.library, self.prefix + name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            getattr(self.library, self.prefix + "cuGetErrorName")(code, ctypes.byref(text))
            raise CUDAError(f"{name}: {text.value.decode() if text.value else code}")

    def attribute(self, number):
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, self.device)
        return value.value

    def allocate(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address):
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def write(self, address, array):
        array = np.ascontiguousarray(array)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), array.ctypes.data_as(ctypes.c_void_p),
                  ctypes.c_size_t(array.nbytes))

    def read(self, address, shape, dtype):
        array = np.empty(shape, dtype)
        self.call("cuMemcpyDtoH_v2", array.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address),
                  ctypes.c_size_t(array.nbytes))
        return array

    def free_bytes(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def synchronize(self):
        self.call("cuCtxSynchronize")

    def event(self):
        event = ctypes.c_void_p()
        self.call("cuEventCreate", ctypes.byref(event), 0)
        return event

    def record(self, event):
        self.call("cuEventRecord", event, None)

    def milliseconds(self, start, end):
        self.call("cuEventSynchronize", end)
        time = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(time), start, end)
        return time.value


class Kernels:
    """The kernels of some CUBINs, by name."""

    THREADS = 256

    def __init__(self, driver, images):
        self.driver, self.functions, self.modules = driver, {}, []
        self.digest = hashlib.sha256(b"".join(images)).hexdigest()[:16]
        for image in images:
            module = ctypes.c_void_p()
            driver.call("cuModuleLoadData", ctypes.byref(module), image)
            self.modules.append(module)

    def find(self, name):
        if name not in self.functions:
            for module in self.modules:
                function, address, size = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t()
                try:
                    self.driver.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
                except CUDAError:
                    continue
                self.driver.call("cuModuleGetGlobal_v2", ctypes.byref(address), ctypes.byref(size), module,
                                 f"{name}_shared".encode())
                shared = int(self.driver.read(address.value, 1, np.int32)[0])
                if shared > 48 << 10:
                    self.driver.call("cuFuncSetAttribute", function, 8, shared)
                self.functions[name] = (function, shared)
                break
            else:
                raise CUDAError(f"no kernel {name}")
        return self.functions[name]

    def launch(self, name, grid, *arguments):
        """Arguments: addresses as `Pointer`, None for null, int and float."""
        function, shared = self.find(name)
        values = [ctypes.c_uint64(0) if a is None else ctypes.c_uint64(a.address) if isinstance(a, Pointer)
                  else ctypes.c_float(a) if isinstance(a, float) else ctypes.c_int(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values))
        self.driver.call("cuLaunchKernel", function, *grid, self.THREADS, 1, 1, shared, None, pointers, None)


class Pointer:
    """An address in device memory, as an argument of a kernel."""

    def __init__(self, address):
        self.address = address


def to_bf16(array):
    """The nearest bf16 numbers, as 16-bit patterns."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def images(folder):
    """The CUBINs of a folder, in the order of their names."""
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.cubin"))]
