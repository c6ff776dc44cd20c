"""Built-in components, one file each; the file's stem is the name that the component is registered under.

Files whose names start with an underscore hold what several components share.
"""
