"""Building blocks of components: layers, heads of likelihoods, schedules."""
