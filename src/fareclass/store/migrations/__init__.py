"""Schema changes, in order. Run by `Store.upgrade`, never by hand."""
