import ApusText
import Testing

@Suite struct RealModelRoundTrips {
  @Test(
    "Text comes back from a real model's ids unchanged",
    .enabled(if: Models.folder != nil, "needs the models: set APUS_MODELS"),
    arguments: ["smollm2-135m", "qwen2.5-coder-0.5b", "gemma-3-270m"].filter { Models.has($0 + ".gguf") })
  func roundTrip(_ name: String) throws {
    let tokenizer = try Models.gguf(name)
    for text in ["", " ", "Hello, world! It's 12345  spaces\n\n\tπ≈3.14 日本語 don't", "a\r\n\r\n  b"] {
      #expect(tokenizer.decode(tokenizer.encode(text)) == text)
    }
  }
}
