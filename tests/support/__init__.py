"""Harnesses, peers and wrong programs that several test packages use."""
