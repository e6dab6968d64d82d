"""Work-precision: error against seconds beside other packages, and evaluations that a reverse diffusion needs."""
