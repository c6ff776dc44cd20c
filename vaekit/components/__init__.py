"""Built-in components, one per file; a component is registered under the stem of its file.

Files whose names start with an underscore hold what several components share.
"""
