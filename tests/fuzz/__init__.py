"""Inputs that nobody meant: what they are made of, what takes them, and what may come of it."""
