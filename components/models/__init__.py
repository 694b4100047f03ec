"""Networks, target assignment, losses and post-processing; the Lightning modules over them."""
