"""Prepared images: the packed store, augmentation, loaders."""
