"""Training of diffusion teachers by EDM's recipe."""
