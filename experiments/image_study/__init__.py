"""A teacher of images, its students, and the table of all samplers: what the experiments on MNIST, CIFAR-10 and CelebA
share."""
