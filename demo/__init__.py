"""The demo: a Gradio page in front of `mdrn`. It reads files in `results/` and never imports `benchmark`."""
