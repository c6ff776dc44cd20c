"""Pictures of trained models: the base class, the album of a run, and the tools that pictures are drawn with."""
