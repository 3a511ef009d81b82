"""What the finite image sets share: files, labels, decoding, order, and the set itself."""
