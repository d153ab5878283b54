"""Handlers: a revision's decoded params → an engine call → that revision's result."""
