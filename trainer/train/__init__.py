"""TensorFlow: models, the training loop, and all-reduce on CPUs."""
