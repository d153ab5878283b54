"""Code generator of the exec-server protocol: everything typed comes from ``schema/``."""
