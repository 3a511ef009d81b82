"""A grid as one HTML file: everything in it, nothing fetched."""
