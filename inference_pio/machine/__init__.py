"""What this machine is made of. Standard library and optional NVIDIA bindings; every other package may ask."""
