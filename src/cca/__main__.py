"""``python -m cca`` is `cca`: launchers that start several processes take a module."""

from cca.cli.main import main

main()
