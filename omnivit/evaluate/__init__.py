"""Asking a trained model questions whose answers are known, and reporting how it did."""
