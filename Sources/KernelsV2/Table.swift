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
    float64GEMM: float64GEMM,
    float64MatVec: float64MatVec,
    float64VecMat: float64VecMat,
    float64SymVec: float64SymVec,
    rotatePanel: rotatePanel,
    fmaLoop: fmaLoop,
    int8Loop: int8Loop,
    readLoop: readLoop
  )
}
