"""The chat page: static files of our own, previews of media, and examples from held-out data."""
