"""What plugins implement and are given. Knows errors, registries and recipes, and nothing else of OmniViT."""
