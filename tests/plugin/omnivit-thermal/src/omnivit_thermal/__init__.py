"""Thermal cameras for OmniViT."""
