"""Processes: supervisors, workers, their rendezvous, and the diagnosis of failures."""
