"""One module a verb, and what several of them share: target, screen, run_store, observe, follow."""
