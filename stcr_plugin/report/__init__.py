"""Words, tables, plots and pages: every text that is made of results."""
