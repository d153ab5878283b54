"""Records session files: from scenarios, or from the traffic of any client and server."""
