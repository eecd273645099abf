"""What a run looks like: HTML, terminal, comparison, TensorBoard."""
