"""Which model: fits of several sizes side by side, and states of different fits under one numbering."""

from unveil.selection.alignment import align_states, permute_states
from unveil.selection.result import Candidate, Selection
from unveil.selection.search import select

__all__ = ["Candidate", "Selection", "align_states", "permute_states", "select"]
