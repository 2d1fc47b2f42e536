"""Speed and quality, measured; results as files."""
