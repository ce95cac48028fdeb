"""What every test may use. No test asks the Hugging Face hub, unless it starts one of its own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from cli_program import Program

# A shell starts background jobs with Ctrl-C ignored, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """`iprobe`, in this process."""
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Where a history may lie: nothing is there yet."""
    return tmp_path / "history.db"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, converted once into the user's cache."""
    sys.path.insert(0, str(ROOT / "examples"))
    from smollm2 import smollm2

    try:
        return smollm2()
    except SystemExit as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
