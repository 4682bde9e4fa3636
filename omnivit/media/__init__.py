"""Media: from the source in a record to decoded content. Each module reads one kind of medium and knows no model."""
