"""Folders and buckets: one protocol, one module for each kind of store."""
