"""Pages and pictures for people: one file each, no network."""
