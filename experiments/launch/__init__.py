"""From flags to a run: parsing, checks, the dry run, seeds, summary."""
