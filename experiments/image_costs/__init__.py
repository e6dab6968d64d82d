"""What Sig-DEG costs beside the network of an image model: time of sampling, memory of training."""
