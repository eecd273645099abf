"""Processes: supervisors and workers, how they meet, start, fail and start again; sweeps."""
