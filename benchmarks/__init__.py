"""What xent measures of itself: ``python -m benchmarks``, from the root of the repository."""
