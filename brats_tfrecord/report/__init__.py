"""Reports evaluations: tables, figures and an HTML page."""
