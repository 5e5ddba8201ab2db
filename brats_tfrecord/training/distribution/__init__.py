"""Devices, replicas and the processes of a multiworker run."""
