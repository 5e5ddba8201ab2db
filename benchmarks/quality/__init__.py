"""The parts of bench_quality.py: cases, trainings, contestants and the summary."""
