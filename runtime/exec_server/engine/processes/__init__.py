"""Processes: starting, input, output, signals, and their end."""
