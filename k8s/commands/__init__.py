"""One module a verb; what several of them share is in k8s.run."""
