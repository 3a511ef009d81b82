"""precondbench: is this preconditioning faster, where, and by how much?"""

__version__ = "0.1.0"
