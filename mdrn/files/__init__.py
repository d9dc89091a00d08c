"""Image files: formats, reading, writing, metadata, and writes that are whole or not at all."""
