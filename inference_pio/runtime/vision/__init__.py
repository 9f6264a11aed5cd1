"""Images for a model with a vision tower: reading, patches, features, and their places in a prompt.

Needs Pillow, an extra of the runtime, but only once an image is there.
"""
