"""Finds the cases of a cohort on disk and reads their NIfTI files."""
