"""Pages, tables and pictures about runs and grids."""
