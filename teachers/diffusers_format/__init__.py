"""Reading a diffusers pipeline folder: its configuration, its noise schedule, its network."""
