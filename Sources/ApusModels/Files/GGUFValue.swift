/// The types of GGUF metadata values; raw values are the format's numbers.
public enum GGUFValueType: UInt32, Sendable, CaseIterable {
  case uint8 = 0
  case int8 = 1
  case uint16 = 2
  case int16 = 3
  case uint32 = 4
  case int32 = 5
  case float32 = 6
  case bool = 7
  case string = 8
  case array = 9
  case uint64 = 10
  case int64 = 11
  case float64 = 12

  /// Bytes of one value; nil for strings and arrays, whose length is in the file.
  var width: Int? {
    switch self {
    case .uint8, .int8, .bool: 1
    case .uint16, .int16: 2
    case .uint32, .int32, .float32: 4
    case .uint64, .int64, .float64: 8
    case .string, .array: nil
    }
  }
}

/// One metadata value of a GGUF file, kept as its place in the file.
struct GGUFEntry: Sendable {
  var type: GGUFValueType
  /// Offset of the value: of a scalar itself, of a string's or array's first element.
  var offset: Int
  /// For a string, its bytes; for an array, its elements; 1 for scalars.
  var count = 1
  /// For an array.
  var elementType: GGUFValueType?
  /// For an array of strings: see `GGUFStringArray`.
  var checkpoints: [Int] = []

  var description: String {
    switch type {
    case .array: "an array of \(count) \(elementType.map { "\($0)" } ?? "values")"
    default: "\(type)"
    }
  }
}

/// A scalar metadata value, for code that shows whatever is there.
public enum GGUFValue: Sendable, Equatable {
  case integer(Int)
  /// An unsigned 64-bit value above `Int.max`.
  case unsigned(UInt64)
  case float(Double)
  case bool(Bool)
  case string(String)
  /// An array is described, not copied: use the typed accessors.
  case array(element: GGUFValueType, count: Int)
}
