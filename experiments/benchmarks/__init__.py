"""Measurements of speed: training against PyTorch, and the loader of photographs."""
