"""Built-in components: one file each, its stem being the name under which it is registered."""
