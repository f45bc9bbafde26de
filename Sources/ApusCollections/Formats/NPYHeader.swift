/// The header of an npy array.
///
/// Source: numpy.lib.format, "Format Version 1.0" to "3.0": the magic, a length, and a Python dict with three keys.
struct NPYHeader: Equatable {
  /// numpy's name of the type: `<f4`.
  var type: String
  var isFortranOrder: Bool
  var shape: [Int]
  /// Bytes before the data.
  var dataOffset: Int

  /// Reads the header at the start of `source`.
  init(_ source: ByteSource) throws(VectorFileError) {
    let start = try source.head(12)
    try source.check(
      start.count == 12 && start.starts(with: [0x93] + "NUMPY".utf8) && (1...3).contains(start[6]), "npy magic",
      seen: "bytes \(start.prefix(8))", expected: "numpy's, with version 1, 2 or 3",
      wayOut: "write the array with numpy.save")
    let textOffset = start[6] == 1 ? 10 : 12
    let length = start[6] == 1 ? Int(start.number(UInt16.self, at: 8)) : Int(start.number(UInt32.self, at: 8))
    let most = min(VectorFileLimits.npyHeaderBytes, source.count - textOffset)
    try source.check(length <= most, "npy header length", seen: "\(length)", expected: "at most \(most) bytes")
    dataOffset = textOffset + length
    let text = String(decoding: try source.head(dataOffset)[textOffset...], as: UTF8.self)
    let tuple = text.firstMatch(of: /['"]shape['"] *: *\(([-0-9, L]*)\)/)?.1
    // Python 2 wrote long integers as 3L.
    let shape = tuple?.split(whereSeparator: { ", L".contains($0) }).map { Int($0) }
    guard let type = text.firstMatch(of: /['"]descr['"] *: *['"]([^'"]*)['"]/)?.1,
      let order = text.firstMatch(of: /['"]fortran_order['"] *: *(True|False)/)?.1,
      let shape, shape.allSatisfy({ ($0 ?? -1) >= 0 })
    else {
      throw source.error(
        "npy header", seen: VectorFileError.printable(text),
        expected: "'descr' (one plain type), 'fortran_order' and 'shape' without negative or huge numbers",
        wayOut: "save a plain array of numbers, field by field if it has fields")
    }
    self.type = String(type)
    isFortranOrder = order == "True"
    self.shape = shape.compactMap(\.self)
  }
}
