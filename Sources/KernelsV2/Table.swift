import KernelInterface

/// The kernels compiled in this module.
public func makeTable(level: CPULevel) -> KernelTable {
  KernelTable(
    level: level,
    quantizeActivations: quantizeActivations,
    quantizedMatmul: quantizedMatmul,
    floatMatmul: floatMatmul,
    gemm: gemm,
    dequantize: dequantizeAny,
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
    squaredDistances: squaredDistances,
    innerProducts: innerProducts,
    codeScores: codeScores,
    bitBounds: bitBounds,
    crc32c: crc32c,
    fmaLoop: fmaLoop,
    int8Loop: int8Loop,
    readLoop: readLoop
  )
}
