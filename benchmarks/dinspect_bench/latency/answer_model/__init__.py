"""A Triton model without work, uploaded to a server while transport is measured."""
