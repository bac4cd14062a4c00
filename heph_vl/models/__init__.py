"""Encoder, text tower and the models that stand on them."""
