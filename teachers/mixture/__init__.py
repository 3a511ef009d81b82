"""Mixtures of Gaussians fitted to data, and the one that is shipped."""
