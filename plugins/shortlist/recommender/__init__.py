"""The science: no input or output."""
