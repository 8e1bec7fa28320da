"""Runs and laws as one self-contained HTML file that opens offline."""

from hptransfer.report.page import write_report

__all__ = ["write_report"]
