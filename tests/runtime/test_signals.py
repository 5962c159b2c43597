"""Signals that ask long work to stop."""

from __future__ import annotations

import os
import signal
import types

import pytest

from ditkit.data import workers
from ditkit.errors import UsageError
from ditkit.runtime import signals
from ditkit.runtime.signals import preempt_signal, stop_on_signals


@pytest.mark.skipif(not hasattr(signal, "SIGWINCH"), reason="needs a signal to stand for Ctrl-Break")
def test_ctrl_break_of_windows_asks_to_stop_and_is_left_to_the_training_process(monkeypatch, capfd) -> None:
    before = signal.getsignal(signal.SIGWINCH)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGWINCH, raising=False)
    with stop_on_signals("stopping") as asked:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert asked() and asked.exit_code == 143
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGWINCH)
    assert "stopping" in capfd.readouterr().err and signal.getsignal(signal.SIGWINCH) == before
    assert signal.SIGWINCH in workers._signals()


def test_a_system_without_such_signals_says_so(monkeypatch) -> None:
    monkeypatch.setattr(signals, "signal", types.SimpleNamespace())
    with pytest.raises(UsageError, match="this system has no signals"):
        preempt_signal("USR1")
