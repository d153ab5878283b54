"""The operations of an exec-server, independent of JSON, protocol revisions and transports."""
