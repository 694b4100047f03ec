"""The page to review a run."""
