"""The command, as `python -m involution` and as what is installed."""

from involution import interrupt


def main() -> int:
    """Run the command of this process; Ctrl-C counts from the first import on."""
    interrupt.listen()
    try:
        from involution.cli import main

        return main()
    # between two handlers
    except KeyboardInterrupt:
        interrupt.end()
        raise


if __name__ == "__main__":
    raise SystemExit(main())
