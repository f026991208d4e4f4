"""What commands print is printed as it is."""

from rich.table import Table

from experiments.runtime.console import plain_console


def test_markup_and_emoji_in_names_are_printed_as_they_are(capsys):
    console = plain_console()
    console.print("runs/[/red]/[bold]a[/bold]/:boom:")
    table = Table(title="[/x] :boom:", title_justify="left")
    table.add_column("[bold]name")
    table.add_row("[link=a]b[/link] [/]")
    plain_console(80, soft_wrap=False).print(table)
    out = capsys.readouterr().out
    for text in "runs/[/red]/[bold]a[/bold]/:boom:", "[/x] :boom:", "[bold]name", "[link=a]b[/link] [/]":
        assert text in out
