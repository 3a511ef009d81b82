"""Figures of a grid, drawn from files alone; matplotlib without pyplot, no torch."""
