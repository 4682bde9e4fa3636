"""Media: from what a record names to what a file holds. Each module reads one kind of medium and knows no model."""
