"""Datasets: formats, checks, the order of samples, and how they reach memory."""
