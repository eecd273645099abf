import hypothesis

# An example that takes long on a busy machine is no failure.
hypothesis.settings.register_profile("trainyard", deadline=None)
hypothesis.settings.load_profile("trainyard")
