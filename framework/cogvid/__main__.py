"""`python -m cogvid`: the command `cogvid`, where it is not installed as one."""

from cogvid.cli import main

if __name__ == "__main__":
    main()
