"""Pure functions on tensors: no state, no files, no randomness without a generator."""
