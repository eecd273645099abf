"""Distributed training of image classifiers on MNIST-format data."""

__version__ = "0.1.0"
