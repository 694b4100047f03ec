"""When and in what order: Prefect flows over `dvc repro`."""
