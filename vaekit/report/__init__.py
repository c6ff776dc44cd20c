"""The report of a run: one page that opens from disk and needs nothing else."""

from vaekit.report.page import write_report

__all__ = ["write_report"]
