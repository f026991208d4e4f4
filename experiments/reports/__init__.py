"""Reports of finished runs: the ledger and model cards."""
