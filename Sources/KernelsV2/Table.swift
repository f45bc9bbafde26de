import KernelInterface

/// The kernels compiled in this module.
public func makeTable(level: CPULevel) -> KernelTable {
  KernelTable(
    level: level,
    quantizeActivations: { _, _, _, _, _ in fatalError() },
    quantizedMatmul: { _ in fatalError() },
    floatMatmul: floatMatmul,
    gemm: gemm,
    dequantize: dequantizeDense,
    convertFromFloat: convertFromFloat,
    attentionItems: attentionItems,
    attention: attention,
    storeKV: storeKV,
    rmsNorm: rmsNorm,
    layerNorm: layerNorm,
    softmax: softmax,
    rope: rope,
    activate: activate,
    add: add,
    multiply: multiply,
    axpy: axpy,
    scale: scale,
    softcap: softcap,
    sum: sum,
    dot: dot,
    argmax: argmax,
    logSumExp: logSumExp,
    fmaLoop: fmaLoop,
    int8Loop: { _ in fatalError() },
    readLoop: readLoop
  )
}
