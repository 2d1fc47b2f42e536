"""The whole pipeline on a machine without containers."""
