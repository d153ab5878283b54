"""Facts about the host and its users' configuration, skills and plugins."""
