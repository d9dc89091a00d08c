"""Start the demo: `python app.py [--host HOST] [--port PORT] [--mcp]`. A Hugging Face Space runs this file as it is."""

import argparse
import importlib.util

from demo.ui import build, launch
from mdrn.inference import reuse_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python app.py", description="MDRN image denoising in the browser, offline.")
    parser.add_argument("--host", help="address to listen on (default: this machine alone, or GRADIO_SERVER_NAME)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument(
        "--mcp", action="store_true", help='offer the API to agents too; needs pip install "gradio[mcp]"'
    )
    arguments = parser.parse_args()
    if arguments.mcp and importlib.util.find_spec("mcp") is None:
        parser.error('--mcp: expected the package mcp, got none; pip install "gradio[mcp]"')
    reuse_freed_memory()
    launch(build(), server_name=arguments.host, server_port=arguments.port, mcp_server=arguments.mcp or None)


if __name__ == "__main__":
    main()
