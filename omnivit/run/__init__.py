"""What stands above training and evaluation: run folders, provenance, the runner, the assistant."""
