"""Retrain a model on new data; promote it only when it has proved to be better."""

__version__ = "0.1.0"
