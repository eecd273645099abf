"""The command line: one module a command, its flags beside what it does."""
