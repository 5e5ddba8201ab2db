"""The synthetic cohort: anatomy, image contrast, bias fields, gliomas."""
