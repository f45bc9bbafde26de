/// The string formats that a grammar can guarantee, as regular expressions. Each accepts only valid values; where a
/// format is wider than any real use (`email`, `uri`), the expression is narrower.
enum JSONFormats {
  static let names = "date, time, date-time, uuid, email, hostname, ipv4, ipv6, uri"

  /// Names that say how to store or show a value and restrict no text.
  static let annotations: Set<String> = [
    "int32", "int64", "float", "double", "password", "binary", "byte", "text", "textarea", "markdown", "color",
  ]

  static func expression(_ name: String) -> String? {
    switch name {
    case "date": "(?:\(date))"
    case "time": time
    case "date-time": "(?:\(date))T\(time)"
    case "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    case "email": #"\#(mailbox)(?:\.\#(mailbox))?@(?:\#(label)\.){1,4}[A-Za-z]{2,24}"#
    case "hostname": hostname
    case "ipv4": #"\#(octet)(?:\.\#(octet)){3}"#
    case "ipv6": "[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}"
    case "uri":
      #"https?://\#(hostname)(?::[1-9]\d{1,3})?(?:/[A-Za-z0-9._~-]{0,64}){0,8}(?:\?[A-Za-z0-9._~=&-]{1,128})?"#
    default: nil
    }
  }

  /// The years 0001 to 9999, days as the month has them, 29 February in leap years only.
  private static let date =
    #"(?:[1-9]\d{3}|0[1-9]\d{2}|00[1-9]\d|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"#
    + #"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"#
    + #"|(?:\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"#

  private static let time =
    #"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"#

  private static let octet = #"(?:25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)"#
  private static let label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
  private static let hostname = #"\#(label)(?:\.\#(label)){0,4}"#
  /// Half of the 64 bytes that the part before `@` may have.
  private static let mailbox = "[A-Za-z0-9_+-]{1,31}"
}
