"""Adversarial training: one step, the loop around it, recipes as named values."""
