"""The web site of the bundled shop: its catalogue as pages and as JSON, for `catalogue_refresh` to read."""
