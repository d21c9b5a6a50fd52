from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dinspect_client.main import main

COMMANDS = """
class Failure(Exception):
    exit_status = 1

class Confused(Exception):
    exit_status = "3"

class Greet:
    help = "say 100% hello"
    def add_arguments(self, parser):
        parser.add_argument("--how", default="ok")
    def run(self, args):
        if args.how == "ok":
            print("hello")
            return 0
        if args.how == "failure":
            raise Failure("the answer is no")
        if args.how == "interrupt":
            raise KeyboardInterrupt
        if args.how == "confused":
            raise Confused("status is no number")
        if args.how == "bug":
            raise ZeroDivisionError("a bug")
        if args.how == "extra":
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn.metrics")
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")
"""


@pytest.fixture
def _greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real installed distribution that offers two commands, one of which cannot be imported."""
    (tmp_path / "greeting_commands.py").write_text(COMMANDS)
    info = tmp_path / "greeting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dinspect.commands]\ngreet = greeting_commands:Greet\nbroken = nowhere_at_all:Command\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_greeting")
class TestCommandsOfOtherPackages:
    def test_command_of_another_distribution_runs(self, capsys) -> None:
        assert main(["greet"]) == 0
        assert capsys.readouterr().out == "hello\n"

    def test_expected_error_prints_its_message_and_returns_its_status(self, capsys) -> None:
        assert main(["greet", "--how", "failure"]) == 1
        output = capsys.readouterr()
        assert output.err == "dinspect: error: the answer is no\n"
        assert output.out == ""

    def test_interrupt_returns_130(self) -> None:
        assert main(["greet", "--how", "interrupt"]) == 130

    @pytest.mark.parametrize("how", ["bug", "confused"])
    def test_unexpected_error_is_not_swallowed(self, how: str) -> None:
        with pytest.raises(Exception, match=r"a bug|no number"):
            main(["greet", "--how", how])

    def test_missing_dependency_names_the_extra_that_brings_it(self, capsys) -> None:
        assert main(["greet", "--how", "extra"]) == 2
        error = capsys.readouterr().err
        assert "scikit-learn" in error
        assert "pip install 'dinspect[bench]'" in error

    def test_unknown_missing_dependency_is_told_as_it_is(self, capsys) -> None:
        assert main(["greet", "--how", "other"]) == 2
        assert "No module named 'nowhere'" in capsys.readouterr().err

    def test_command_that_cannot_be_imported_is_told(self, capsys) -> None:
        assert main(["broken"]) == 2
        assert "nowhere_at_all" in capsys.readouterr().err

    def test_help_lists_all_commands_even_the_broken(self, capsys) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert "say 100% hello" in text
        assert "(not usable here" in text
        assert "inspect" in text


def test_version_is_the_distributions(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dinspect {metadata.version('dinspect')}\n"


def test_no_command_is_wrong_use(capsys) -> None:
    assert main([]) == 2
    output = capsys.readouterr()
    assert "COMMAND" in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["--no-such-option"], ["inspect"], ["inspect", "screw"]]
)
def test_wrong_use_exits_with_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_help_of_a_command_names_its_arguments(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "--help"])
    assert "--fail-on-anomaly" in capsys.readouterr().out


def test_process_returns_the_status_of_main() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dinspect_client.main"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
