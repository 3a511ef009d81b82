"""OpenAI's .pt files: reading a state dict without running it, and its U-Net as one of ours."""
