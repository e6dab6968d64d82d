"""Everything that needs a GPU, in eight minutes of one: `make gpu`."""
