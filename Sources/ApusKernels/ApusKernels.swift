@_exported import KernelInterface
