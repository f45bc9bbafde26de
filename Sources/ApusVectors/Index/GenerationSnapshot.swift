/// What a generation held at one moment, for a copy that is made while the generation changes.
///
/// The rows of a slot never change within a generation; the lists stay as they are while the reader that took the snapshot
/// is inside of its epoch.
struct GenerationSnapshot: Sendable {
  let generation: Generation
  /// Those that are alive, ascending, and for each the list of the tenants that were granted it.
  let slots: [UInt32]
  let access: [UInt32]
  let owners: Column<UInt32>
  /// Ascending, and for each the list of its groups.
  let tenants: [TenantID]
  let groups: [UInt32]
  let offloaded: [TenantID: OffloadedTenant]
  let parked: [VectorID: TenantID]
  let spill: SpillFile

  func numbers(_ list: UInt32) -> [UInt32] {
    list == 0 ? [] : Array(IDBlock(generation.blocks.address(list)).buffer)
  }
}

/// Changes that were made while a copy was.
///
/// `@unchecked Sendable`: only the holder of the index's writer lock touches it.
final class ChangeJournal: @unchecked Sendable {
  var changes: [Mutation] = []
}
