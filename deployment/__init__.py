"""Ships DAGs and plugins to a server."""
