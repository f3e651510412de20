"""The only place that waits, locks or knows sync from async."""
