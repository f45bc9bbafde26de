import KernelInterface

/// The kernels compiled in this module.
public func makeTable(level: CPULevel) -> KernelTable {
  KernelTable(
    level: level,
    quantizeActivations: { _, _, _, _, _ in fatalError() },
    quantizedMatmul: { _ in fatalError() },
    floatMatmul: { _ in fatalError() },
    gemm: { _ in fatalError() },
    dequantize: { _, _, _, _ in fatalError() },
    convertFromFloat: { _, _, _, _ in fatalError() },
    attentionItems: { _ in fatalError() },
    attention: { _, _, _ in fatalError() },
    storeKV: { _, _, _, _, _, _, _, _, _ in fatalError() },
    rmsNorm: { _, _, _, _, _, _, _, _ in fatalError() },
    layerNorm: { _, _, _, _, _, _, _, _, _ in fatalError() },
    softmax: { _, _, _, _, _, _ in fatalError() },
    rope: { _, _, _, _, _, _, _, _, _ in fatalError() },
    activate: { _, _, _, _, _ in fatalError() },
    add: { _, _, _, _ in fatalError() },
    multiply: { _, _, _, _ in fatalError() },
    axpy: { _, _, _, _ in fatalError() },
    scale: { _, _, _, _ in fatalError() },
    softcap: { _, _, _, _ in fatalError() },
    sum: { _, _ in fatalError() },
    dot: { _, _, _ in fatalError() },
    argmax: { _, _ in fatalError() },
    logSumExp: { _, _ in fatalError() },
    fmaLoop: { _ in fatalError() },
    int8Loop: { _ in fatalError() },
    readLoop: { _, _ in fatalError() }
  )
}
