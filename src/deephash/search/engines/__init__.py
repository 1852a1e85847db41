"""Search engines: exact and approximate, in this process or on a server."""
