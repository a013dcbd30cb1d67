"""Options made from settings classes, and the rules for options that need or exclude each other."""

import os
from dataclasses import dataclass, field
from typing import Literal

import pytest

from stcr_plugin.cli import main
from stcr_plugin.cli.options import Parser, exclude, given, require, settings_from, settings_options
from stcr_plugin.errors import ConfigError


@dataclass(frozen=True)
class Oven:
    name: str = field(metadata={"help": "what it is called"})
    degrees: int = field(default=200, metadata={"help": "100 % of its heat"})
    share: float | None = field(default=None, metadata={"help": "how full (default: as it comes)"})
    fan: bool = field(default=False, metadata={"help": "blow"})
    kind: Literal["gas", "electric"] = field(default="gas", metadata={"help": "what heats"})
    hidden: int = 3


FIELDS = ("name", "degrees", "share", "fan", "kind")


@pytest.fixture
def parser():
    parser = Parser(prog="bake")
    settings_options(parser, Oven, FIELDS, names={"kind": "heated_by"})
    parser.set_defaults(parser=parser)
    return parser


def test_fields_become_options_with_type_default_and_help(parser):
    lines = [" ".join(line.split()) for line in parser.format_help().splitlines()]
    assert lines[lines.index("options:") + 2 :] == [
        "--name NAME what it is called",
        "--degrees N 100 % of its heat (default: 200)",
        "--share X how full (default: as it comes)",
        "--fan blow",
        "--heated-by {gas,electric}",
        "what heats (default: gas)",
    ]


def test_settings_hold_what_is_given_and_the_defaults_of_the_rest(parser):
    arguments = parser.parse_args(["--name", "a", "--degrees", "90", "--fan", "--heated-by", "electric"])
    assert arguments.heated_by == "electric"
    assert settings_from(Oven, arguments, FIELDS) == Oven("a", 90, None, True)
    with pytest.raises(ConfigError, match="key 'name' is missing"):
        settings_from(Oven, parser.parse_args([]), FIELDS)


def test_options_of_a_command_are_made_when_it_runs():
    made = []
    main = Parser(prog="main")
    commands = main.add_subparsers()
    for name in ("one", "two"):
        commands.add_parser(name).options = lambda parser: made.append(parser.prog)
    main.parse_args(["two"])
    assert made == ["main two"]


@pytest.mark.parametrize("option", ["--out", "--registry", "--model"])
def test_a_path_that_is_empty_is_refused(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["eval", "--dataset", "toy", option, ""])
    assert f"argument {option}: is empty; name a file or a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("max_new_tokens=012", "012 is read as an octal number by YAML, 10; write '012' in quotes"),
        ("max_new_tokens=1:30", "1:30 is read as a number to base 60 by YAML; write '1:30' in quotes"),
        ("language=2024-01-01", "2024-01-01 is read as a date by YAML; write '2024-01-01' in quotes"),
    ],
)
def test_a_setting_that_yaml_reads_as_another_value_is_refused(given, says, capsys):
    assert main(["eval", "--dataset", "toy", "--oracle", "right", "--set", given]) == 1
    assert f"--set {given}, line 1: {says}" in capsys.readouterr().err


def test_rules_name_both_options(parser):
    arguments = parser.parse_args(["--fan", "--degrees", "90"])
    assert {"fan", "degrees"} == given(arguments)
    exclude(arguments, "fan", ("name", "share"))
    require(arguments, "fan", "degrees")
    require(arguments, "name", "share")
    with pytest.raises(ConfigError, match=r"^--fan and --degrees exclude each other$"):
        exclude(arguments, "fan", ("degrees",))
    with pytest.raises(ConfigError, match=r"^--fan requires --heated-by$"):
        require(arguments, "fan", "heated_by")


@pytest.mark.parametrize(
    ("command", "kind"),
    [("data show toy", "file"), ("data overlap a b", "file"), ("report a", "folder"), ("eval --dataset a", "folder")],
)
def test_output_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path, capsys, command, kind):
    os.mkfifo(tmp_path / "pipe")
    assert main([*command.split(), "--out", str(tmp_path / "pipe")]) == 1
    assert f"pipe: is a pipe, not a {kind}, and stays as it is" in capsys.readouterr().err
    assert main([*command.split(), "--out", "x" * 5000]) == 1
    assert "cannot be written to (File name too long); name another path" in capsys.readouterr().err
