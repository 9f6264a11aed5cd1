"""Backends execute an artifact's graphs; each file holds one library."""
