// The page of report.py.
