"""The command line starts at once and says what it does."""

import subprocess
import sys

from click.testing import CliRunner

from sclip.cli import main


def test_help_imports_no_torch():
    code = "import sys, sclip.cli; assert not {'torch', 'transformers', 'open_clip'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help():
    result = CliRunner().invoke(main, ["import", "--help"])
    assert result.exit_code == 0
    assert "CHECKPOINT" in result.output
