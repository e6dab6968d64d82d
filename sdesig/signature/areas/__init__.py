"""Levy areas of Brownian motion, A_ij = 1/2 int (W_i dW_j - W_j dW_i), and the iterated integrals made of them."""
