"""The demo: from weights to a report of real solar cells."""
