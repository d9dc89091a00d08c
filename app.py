"""Start the demo: `python app.py [--host HOST] [--port PORT]`. A Hugging Face Space runs this file as it is."""

import argparse

from demo.ui import build, launch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python app.py", description="MDRN image denoising in the browser, offline.")
    parser.add_argument("--host", help="address to listen on (default: this machine alone, or GRADIO_SERVER_NAME)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    arguments = parser.parse_args()
    launch(build(), server_name=arguments.host, server_port=arguments.port)


if __name__ == "__main__":
    main()
