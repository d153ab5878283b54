"""Code generator of the exec-server protocol: typed packages from ``schema/``."""
