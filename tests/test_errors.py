"""What the user did wrong is one line and status 2; what we did wrong keeps its traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from sgma_jax.errors import InputError, is_disk_full, one_line_errors

PROGRAM = """
import errno, os, sys
from sgma_jax.errors import InputError, one_line_errors

@one_line_errors
def main():
    print("working")
{body}

main()
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(body="\n".join("    " + line for line in body.splitlines()))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            'raise InputError("data.csv: column 3 is unknown; remove it.")',
            "error: data.csv: column 3 is unknown; remove it.",
        ),
        ('raise InputError("data.csv:\\n  many\\n\\n\\tlines\\n")', "error: data.csv: many lines"),
        (
            'try:\n    {}["x"]\nexcept KeyError as error:\n    raise InputError("no x; add it.") from error',
            "error: no x; add it.",
        ),
    ],
    ids=["plain", "several lines", "from another"],
)
def test_bad_input_is_exactly_one_line_on_standard_error_and_status_2(body: str, line: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr, done.stdout) == (2, line + "\n", "working\n")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/config.json")', "runs/x/config.json"),
        ("raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))", "the output folder"),
        (
            (
                'try:\n    raise OSError(errno.ENOSPC, "full")\nexcept OSError as error:\n    raise '
                'RuntimeError("shard '
                'failed") from error'
            ),
            "the output folder",
        ),
        (
            (
                'try:\n    raise OSError(errno.ENOSPC, "full")\nexcept OSError:\n    raise RuntimeError("while '
                "cleaning "
                'up")'
            ),
            "the output folder",
        ),
        ('raise ValueError("INTERNAL: write failed: No space left on device [errno 28]")', "the output folder"),
        ('raise RuntimeError("RESOURCE_EXHAUSTED: Error writing to shard 0")', "the output folder"),
    ],
    ids=["with its file", "quota", "cause", "context", "tensorstore", "array_record"],
)
def test_a_full_disk_is_exactly_one_line_that_says_so_and_status_2(body: str, named: str) -> None:
    done = run(body)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {named}: the disk is full")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_disk_that_really_is_full_is_recognised() -> None:
    done = run('with open("/dev/full", "w") as file:\n    file.write("x")')
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "the disk is full" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "last"),
    [
        ('raise ValueError("a bug")', "ValueError: a bug"),
        ('raise OSError(errno.EIO, "a bad disk", "x")', "OSError: [Errno 5] a bad disk: 'x'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_anything_else_keeps_its_traceback(body: str, last: str) -> None:
    done = run(body)
    assert done.returncode in (1, -signal.SIGINT)
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.rstrip().endswith(last)


def test_success_and_a_commands_own_exit_status_pass_through() -> None:
    assert (run("pass").returncode, run("pass").stderr) == (0, "")
    assert run("raise SystemExit(7)").returncode == 7


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_gone_is_no_error_of_ours(lines: int) -> None:
    """`sgma inspect ... | head -0`: nothing on standard error, whether the output fits into a buffer or not."""
    program = PROGRAM.format(body=f"    for i in range({lines}):\n        print(i)")
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=buffered,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.parametrize("error", [None, ValueError("x"), OSError(errno.ENOENT, "no file"), InputError("x")])
def test_other_errors_are_no_full_disk(error: BaseException | None) -> None:
    assert not is_disk_full(error)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/there/x.png"),
        FileNotFoundError(2, "No such file or directory", "/there/x.png"),
        OSError(30, "Read-only file system", "/there/x.png"),
    ],
)
def test_a_path_that_the_file_system_refuses_is_one_line(error: OSError, capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == f"error: /there/x.png: {error.strerror}. Correct the path, or choose a place that can be written.\n"


def test_an_error_of_the_system_without_a_path_keeps_its_traceback() -> None:
    @one_line_errors
    def main() -> None:
        raise OSError(13, "Permission denied")

    with pytest.raises(OSError, match="denied"):
        main()
