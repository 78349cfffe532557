"""Statistics, figures, claims."""
