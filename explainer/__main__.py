"""``python -m explainer``: the same as the command ``explainer``."""

from explainer.cli.application import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
