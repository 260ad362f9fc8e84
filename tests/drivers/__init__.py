"""Every event of a log is seen once, whatever happens to its reader."""
