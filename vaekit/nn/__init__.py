"""Building blocks of components: layers, likelihood heads, schedules."""
