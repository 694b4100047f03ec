"""What one stage does: a plain function and a thin command line for each DVC stage."""
