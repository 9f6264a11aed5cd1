"""Rewrites: one per file, each with a pattern, a check and the rewrite itself; the driver counts the matches."""
