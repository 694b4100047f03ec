"""Using an exported model: on files, and over HTTP. Imports neither torch nor timm."""
