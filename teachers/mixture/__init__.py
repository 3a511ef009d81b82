"""Mixtures of Gaussians fitted to data, and the fit that is shipped."""
