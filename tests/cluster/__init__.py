"""What only a real cluster shows; see docs/e2e.md."""
