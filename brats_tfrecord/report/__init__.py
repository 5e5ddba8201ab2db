"""Arrays in, files out: tables, figures and the HTML report of an evaluation."""
