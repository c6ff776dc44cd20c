"""Pictures of trained models: the base class, the album of a run, and drawing tools."""
