"""Start the demo: `python app.py [--host HOST] [--port PORT] [--mcp]`. A Hugging Face Space runs this file as it is."""

import argparse
import importlib.util


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
    print("Starting, which can take a minute ...", flush=True)
    from demo.ui import build, launch  # after the line above: they take their time
    from mdrn.inference import reuse_freed_memory

    reuse_freed_memory()
    page = build()
    options = {"server_name": arguments.host, "server_port": arguments.port, "mcp_server": arguments.mcp or None}
    _, address, _ = launch(page, **options, quiet=True, prevent_thread_lock=True)
    print(f"Open {address} in a browser. Ctrl+C ends the demo.", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
