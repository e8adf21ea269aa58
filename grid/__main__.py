"""`python -m grid` is the command `tta-grid`, for places where no script is on the path."""

from grid.commands.main import main

if __name__ == "__main__":
    main(prog_name="tta-grid")
