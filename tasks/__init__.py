"""Thin Prefect shells: one file per stage of the line. What a stage does is in adaptory/."""
