"""A trained model at work: predictions on pictures, exports."""
