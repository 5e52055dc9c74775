"""Wiring: what runs after what."""
