"""Feature-denoising image classifiers and everything that proves their robustness."""
