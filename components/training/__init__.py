"""The training run: loop settings, EMA, curves, resuming."""
