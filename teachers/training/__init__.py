"""Training a diffusion teacher here, by EDM's recipe."""
