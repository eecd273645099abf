"""What a run keeps in its folder, written and read."""
