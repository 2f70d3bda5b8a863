"""Evaluations that trust no attack and lose no image: white-box sweeps, certification."""
