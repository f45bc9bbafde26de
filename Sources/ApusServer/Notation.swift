import Foundation

extension Date {
  private static let timeFormat = ISO8601FormatStyle(includingFractionalSeconds: true)

  /// As RFC 3339 writes it, in UTC.
  var rfc3339: String { formatted(Self.timeFormat) }
}

extension Sequence<UInt8> {
  /// Two hexadecimal digits a byte, in lower case.
  var hex: String {
    map { byte in
      let digits = String(byte, radix: 16)
      return digits.count < 2 ? "0" + digits : digits
    }.joined()
  }
}

extension StringProtocol {
  /// Whether it is so many hexadecimal digits in lower case.
  func isHex(digits: Int) -> Bool {
    utf8.count == digits && utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
  }
}
