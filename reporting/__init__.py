"""The page that kpi_report.py writes, and where it goes."""
