"""Formatting of tables and styling of figures."""
