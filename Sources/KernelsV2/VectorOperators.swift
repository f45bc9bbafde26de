import CSIMD

// The operators of the vectors that the kernels use, each one instruction (or two at v3). The standard library's are
// loops over lanes; these are preferred in this module because they are not generic.

@inline(__always) func & (a: SIMD16<UInt32>, b: SIMD16<UInt32>) -> SIMD16<UInt32> { csimd_and(a, b) }
@inline(__always) func | (a: SIMD16<UInt32>, b: SIMD16<UInt32>) -> SIMD16<UInt32> { csimd_or(a, b) }
@inline(__always) func ^ (a: SIMD16<UInt32>, b: SIMD16<UInt32>) -> SIMD16<UInt32> { csimd_xor(a, b) }
@inline(__always) func &* (a: SIMD16<UInt32>, b: SIMD16<UInt32>) -> SIMD16<UInt32> { csimd_multiply_dwords(a, b) }

@inline(__always) func &+ (a: SIMD16<Int32>, b: SIMD16<Int32>) -> SIMD16<Int32> { csimd_add_ints(a, b) }
@inline(__always) func &- (a: SIMD16<Int32>, b: SIMD16<Int32>) -> SIMD16<Int32> { csimd_subtract_ints(a, b) }
@inline(__always) func &+= (a: inout SIMD16<Int32>, b: SIMD16<Int32>) { a = csimd_add_ints(a, b) }
@inline(__always) func &+ (a: SIMD16<Int16>, b: SIMD16<Int16>) -> SIMD16<Int16> { csimd_add_shorts(a, b) }
@inline(__always) func &+= (a: inout SIMD16<Int16>, b: SIMD16<Int16>) { a = csimd_add_shorts(a, b) }

@inline(__always) func + (a: SIMD16<Float>, b: SIMD16<Float>) -> SIMD16<Float> { csimd_add(a, b) }
@inline(__always) func - (a: SIMD16<Float>, b: SIMD16<Float>) -> SIMD16<Float> { csimd_subtract(a, b) }
@inline(__always) func * (a: SIMD16<Float>, b: SIMD16<Float>) -> SIMD16<Float> { csimd_multiply(a, b) }
@inline(__always) prefix func - (a: SIMD16<Float>) -> SIMD16<Float> { csimd_negate(a) }
