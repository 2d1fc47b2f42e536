"""What a shop would have around this project, small: for trying it out and for tests."""
