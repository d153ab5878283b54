"""Handlers of each protocol revision: generated params in, engine calls, generated results out."""
