import KernelInterface

/// Names of all type numbers that GGUF files carry, so that an unsupported one is named and not just numbered.
enum GGMLType {
  static let supported = DType.allCases.map(\.name).joined(separator: ", ")

  static func name(_ raw: UInt32) -> String {
    if let dtype = DType(rawValue: raw) { return dtype.name }
    return others[raw] ?? "an unknown type"
  }

  private static let others: [UInt32: String] = [
    4: "Q4_2 (removed from the format)", 5: "Q4_3 (removed from the format)", 9: "Q8_1", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 27: "I64", 28: "F64", 29: "IQ1_M",
    31: "Q4_0_4_4 (removed from the format)", 32: "Q4_0_4_8 (removed from the format)",
    33: "Q4_0_8_8 (removed from the format)", 34: "TQ1_0", 35: "TQ2_0",
    36: "IQ4_NL_4_4 (removed from the format)", 37: "IQ4_NL_4_8 (removed from the format)",
    38: "IQ4_NL_8_8 (removed from the format)", 39: "MXFP4", 40: "NVFP4",
  ]
}
