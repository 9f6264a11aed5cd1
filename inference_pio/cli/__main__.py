"""`python -m inference_pio.cli`."""

from inference_pio.cli.main import main

main()
