"""Write a Triton model repository and serve it."""
