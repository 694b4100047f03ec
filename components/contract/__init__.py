"""The data contract: canonical tables, readers of raw formats, pixel rule, splits."""
