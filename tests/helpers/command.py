"""Commands as a shell sees them."""


def outcome(main, capsys, *arguments):
    """(exit code, standard output, standard error) of a command's `main`."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err
