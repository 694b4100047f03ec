"""How: data, models, losses, training, evaluation, export. Knows nothing of DVC or Prefect."""
