import CSIMD
import KernelInterface
