"""Container jobs: thin command lines over steps."""
