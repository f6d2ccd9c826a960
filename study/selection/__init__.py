"""Which trials are tried first, chosen to be trained, and continued."""
