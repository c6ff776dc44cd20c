"""An exporter for vaekit that writes a trained model as one web page; the entry point leads to `exporter`."""
