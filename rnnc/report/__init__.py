"""The report of a compiled model: one HTML file that shows all stages, from the picture down to the machine code."""

from rnnc.report.page import report

__all__ = ["report"]
