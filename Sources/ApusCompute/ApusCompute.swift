// Placeholder until the room fills.
