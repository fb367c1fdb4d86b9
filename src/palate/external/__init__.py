"""Data of others: Alpaca files with their own answers, and tables that bring their splits."""
