"""OpenAI's .pt files: read a state dict without executing it, and map its U-Net to ours."""
