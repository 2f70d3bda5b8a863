"""Randomized smoothing: certificates for any classifier of noisy images."""
