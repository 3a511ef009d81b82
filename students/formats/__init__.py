"""What the formats of students share; in a folder of its own, so that listing plugins skips it."""
