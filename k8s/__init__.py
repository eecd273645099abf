"""Submits runs to Kubernetes and says what became of them; runs where the user types."""
