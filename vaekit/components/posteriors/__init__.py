"""Built-in posteriors."""
