"""The web service: what the pipeline has published, blended, explained and shown to people."""
