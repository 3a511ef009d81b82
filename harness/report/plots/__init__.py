"""Figures of a grid, drawn from its files; matplotlib without pyplot, no torch."""
