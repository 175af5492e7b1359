"""One self-contained HTML page about a result: sound to listen to, figures, tables, and how it was made."""

from unveil.report.model import model_report
from unveil.report.selection import selection_report
from unveil.report.separation import separation_report

__all__ = ["model_report", "selection_report", "separation_report"]
