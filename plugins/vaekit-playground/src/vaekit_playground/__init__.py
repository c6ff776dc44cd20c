"""An exporter for vaekit that writes a trained model as one web page; the entry point refers to `exporter`."""
