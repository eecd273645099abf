"""One module a verb, and what several of them share.

Which are target, screen, observe, follow, and the folder of a run: run_store, claim_folder,
reader_pod.
"""
