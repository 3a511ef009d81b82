"""Helpers of finite image sets: files, labels, decoding, order, and the set itself."""
