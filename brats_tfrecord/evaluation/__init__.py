"""Evaluates models: segments and scores cases, and summarises and compares the results."""
