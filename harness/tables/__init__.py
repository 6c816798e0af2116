"""Comparison tables from records in several formats, and the papers' own tables beside them."""
