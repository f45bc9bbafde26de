/// The type of a file's numbers, all little-endian; the raw value is numpy's name of it.
public enum ElementType: String, Sendable, CaseIterable {
  case bool = "|b1"
  case float16 = "<f2"
  case float32 = "<f4"
  case float64 = "<f8"
  case int8 = "|i1"
  case uint8 = "|u1"
  case int32 = "<i4"
  case uint32 = "<u4"
  case int64 = "<i8"
  case uint64 = "<u8"

  /// Bytes of one number.
  public var byteCount: Int {
    switch self {
    case .bool, .int8, .uint8: 1
    case .float16: 2
    case .float32, .int32, .uint32: 4
    case .float64, .int64, .uint64: 8
    }
  }

  public var isInteger: Bool {
    switch self {
    case .bool, .float16, .float32, .float64: false
    case .int8, .uint8, .int32, .uint32, .int64, .uint64: true
    }
  }
}

/// A number that arrays are read into and written from: `Float` and `Int64`.
public protocol ArrayElement: BitwiseCopyable, Sendable {
  static var elementType: ElementType { get }

  /// Makes `values` the numbers of `rows`; returns the index of one that it can't hold.
  static func decode(_ rows: EncodedRows, into values: inout [Self]) -> Int?
}

/// Rows as they lie in a file: `rows` times a header and then `columns` numbers.
public struct EncodedRows: Sendable {
  let type: ElementType
  let columns: Int
  let headerBytes: Int
  var rows = 0
  var bytes: [UInt8] = []
}
