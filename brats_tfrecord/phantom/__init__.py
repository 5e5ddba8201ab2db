"""Generates the synthetic cohort: anatomy, image contrast, bias fields and gliomas."""
