"""A trained student as a folder that needs torch and safetensors alone."""
