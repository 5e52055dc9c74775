"""Measurements behind the numbers in the README. Never asserted in tests: machines are noisy."""
