"""What `kpi_report.py` is made of: what it shows, how it reads gold, its charts and its page."""
