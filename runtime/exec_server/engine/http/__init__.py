"""HTTP requests on behalf of a client."""
