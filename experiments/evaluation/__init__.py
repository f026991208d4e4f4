"""A trained network: read, evaluated, and shown on images."""
