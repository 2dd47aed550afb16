"""What `cli.py` offers: one file per group of commands."""
