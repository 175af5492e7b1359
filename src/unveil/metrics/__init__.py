"""Pure functions of (reference, estimate) that return numbers."""
