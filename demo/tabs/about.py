"""The About tab: what this is, what it is good for, and what happens to an image."""

from pathlib import Path

import gradio as gr

from demo import catalogue

NO_NETWORK = (
    "No network is released with this copy yet: train one (`python -m mdrn train`) and put it in `mdrn/weights/`."
)
TEXT = Path(__file__).parent.parent / "about.md"


def layout() -> None:
    """Lay the tab out."""
    networks = "\n".join(f"- {network.title}, {network}" for network in catalogue.networks()) or NO_NETWORK
    gr.Markdown(TEXT.read_text(encoding="utf-8").replace("{networks}", networks), elem_classes="reading")
