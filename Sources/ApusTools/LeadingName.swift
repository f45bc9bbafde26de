/// Reads what stands between a marker and the arguments where the name is not in the object: `name{…}`,
/// `name[ARGS]{…}` or `name[CALL_ID]id[ARGS]{…}`.
struct LeadingName: Sendable {
  enum Step: Sendable {
    case more
    /// The byte is the opening brace of the arguments of `name`.
    case ended
    case failed
  }

  private enum State: Sendable {
    case name
    /// In `[ARGS]` or `[CALL_ID]`.
    case marker
    case identifier
    /// After `[ARGS]`, or after white space that follows the name.
    case arguments
  }

  /// Longer markers and ids are none, in bytes.
  private static let maximumLength = CallReader.maximumNameLength + 64

  private var state = State.name
  private var nameBytes: [UInt8] = []
  private var marker: [UInt8] = []
  private var count = 0

  /// The name, once what follows it has begun.
  var wholeName: String? { state == .name ? nil : name }

  var name: String { String(decoding: nameBytes, as: UTF8.self) }

  static func isNameByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "/"):
      true
    default: false
    }
  }

  /// Takes the next byte after the marker; the first must be a name's.
  mutating func take(_ byte: UInt8) -> Step {
    count += 1
    if count > Self.maximumLength { return .failed }
    switch (state, byte) {
    case (.name, UInt8(ascii: "{")), (.arguments, UInt8(ascii: "{")): return .ended
    case (.name, UInt8(ascii: "[")), (.identifier, UInt8(ascii: "[")):
      marker = [byte]
      state = .marker
      return .more
    case (.name, _) where byte.isJSONSpace, (.arguments, _) where byte.isJSONSpace:
      state = .arguments
      return .more
    case (.name, _) where Self.isNameByte(byte):
      nameBytes.append(byte)
      return .more
    case (.identifier, _): return Self.isNameByte(byte) ? .more : .failed
    case (.marker, _): return takeMarker(byte)
    default: return .failed
    }
  }

  private mutating func takeMarker(_ byte: UInt8) -> Step {
    marker.append(byte)
    if marker.elementsEqual("[ARGS]".utf8) {
      state = .arguments
    } else if marker.elementsEqual("[CALL_ID]".utf8) {
      state = .identifier
    } else if !"[ARGS]".utf8.starts(with: marker) && !"[CALL_ID]".utf8.starts(with: marker) {
      return .failed
    }
    return .more
  }
}
