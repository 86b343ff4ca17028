"""BYOL and SimSiam."""
