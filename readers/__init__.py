"""Built-in readers: a module each, or a package where a reader has several modules."""
