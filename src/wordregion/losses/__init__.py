"""Pure functions: tensors in, tensor out."""
