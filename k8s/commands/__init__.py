"""One module a verb: its flags beside what it does."""
