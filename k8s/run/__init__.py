"""Shared by the verbs: finds, checks and follows a run in a cluster, and reads its folder."""
