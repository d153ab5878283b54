"""Handlers per protocol revision: generated params in, engine calls, generated results out."""
