"""Preprocessing of raw volumes to network input, and its inverse."""
