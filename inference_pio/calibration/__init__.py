"""Recipes: every choice about quantization."""
