"""The command, as `python -m involution` and as what is installed."""


def main() -> int:
    """Run the command of this process; Ctrl-C counts from the first import on."""
    try:
        from involution.cli import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    raise SystemExit(main())
