"""Any source of demonstrations -> Episode."""
