"""Cases to metrics: runs a model over a cohort, keeps the results, and summarises and compares them."""
