"""Measuring a model: accuracy family, COCO family, worst mistakes."""
