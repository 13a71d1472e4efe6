"""Journal files whose writers died or ran out of disk in the middle of a record."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from pgzoo.errors import ConfigError, MachineError
from pgzoo.tuning.journal import Journal
from pgzoo.tuning.storage import open_storage


def study_in(path: Path) -> optuna.Study:
    return optuna.create_study(storage=open_storage(f"journal:{path}"), study_name="s", load_if_exists=True)


def attributes(path: Path) -> dict[str, Any]:
    """Return the study's attributes as Optuna's own reader finds them."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return dict(optuna.load_study(study_name="s", storage=storage).user_attrs)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of four records: the study, then the attributes a, b and c."""
    path = tmp_path / "study.journal"
    study = study_in(path)
    for name in "abc":
        study.set_user_attr(name, name * 50)
    return path


@pytest.mark.parametrize("n_bytes", [2, 3, 20, 60, 100])
@pytest.mark.filterwarnings("ignore:.*incomplete record")
def test_continuing_after_a_torn_record_keeps_all_others(journal: Path, n_bytes: int) -> None:
    """Finds a new record that is appended to the torn one, which destroys both and every later read."""
    lines = journal.read_bytes().splitlines(keepends=True)
    os.truncate(journal, journal.stat().st_size - n_bytes)
    torn = lines[3][:-n_bytes]
    assert set(attributes(journal)) == {"a", "b"}  # reading does not change anything
    assert not journal.with_name("study.journal.torn").exists()
    study_in(journal).set_user_attr("d", 1)
    assert journal.read_bytes().startswith(b"".join(lines[:3]))
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())
    assert set(attributes(journal)) == {"a", "b", "d"}
    assert journal.with_name("study.journal.torn").read_bytes() == torn


def test_a_record_that_only_lacks_its_end_is_kept(journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size - 1)
    study_in(journal).set_user_attr("d", 1)
    assert set(attributes(journal)) == {"a", "b", "c", "d"}
    assert not journal.with_name("study.journal.torn").exists()


@pytest.mark.parametrize("tail", [b"\0" * 100, b"{not json\n", b'{"op_code":2,"wor\0\0\n', b"3\n", b"x" * 200_000])
def test_what_a_power_failure_leaves_is_moved_aside(journal: Path, tail: bytes) -> None:
    """Finds a repair that only looks at the last byte, or at one block of the file."""
    before = journal.read_bytes()
    journal.write_bytes(before + tail)
    storage = Journal(journal)
    with pytest.warns(UserWarning, match="ended with an incomplete record, as after a crash; its .* are now in .*torn"):
        storage.append_logs([{"op_code": 10}])
    assert journal.read_bytes() == before + b'{"op_code":10}\n'
    assert journal.with_name("study.journal.torn").read_bytes() == tail


def test_a_file_that_is_not_a_journal_is_kept(tmp_path: Path) -> None:
    """Finds a repair that empties somebody's one-line file."""
    notes = tmp_path / "notes.txt"
    notes.write_text("remember the milk")
    with pytest.raises(ConfigError, match=r"notes.txt is not a journal of Optuna"):
        study_in(notes)
    assert notes.read_text() == "remember the milk"
    (tmp_path / "other.jsonl").write_text('{"name": 1}\n{"name": 2}\n')
    with pytest.raises(ConfigError, match=r"cannot use the storage journal:.*other.jsonl"):
        study_in(tmp_path / "other.jsonl")


def test_a_record_that_does_not_fit_on_the_disk_leaves_no_part(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a partial record that the next writer, in another process, continues."""
    before, write, full = journal.read_bytes(), os.write, [True]

    def write_a_part(descriptor: int, data: bytes) -> int:
        if not full[0]:
            return write(descriptor, data)
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    study = study_in(journal)
    before = journal.read_bytes()
    monkeypatch.setattr("pgzoo.tuning.journal.os.write", write_a_part)
    with pytest.raises(MachineError, match=r"cannot write .*study.journal: No space left on device"):
        study.set_user_attr("d", "x" * 15)
    assert journal.read_bytes() == before
    full[0] = False
    study.set_user_attr("d", 1)
    assert attributes(journal)["d"] == 1


@pytest.mark.filterwarnings("ignore:.*grace_period")
def test_the_lock_of_a_killed_writer_is_found_from_any_folder(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a lock that points nowhere: then those who wait for it do so forever.

    The lock is a link to the journal. With a relative path, logs/s.journal.lock would point to logs/logs/s.journal.
    """
    (journal.parent / "logs").mkdir()
    journal.rename(journal.parent / "logs" / "s.journal")
    monkeypatch.chdir(journal.parent)
    monkeypatch.setattr("pgzoo.tuning.journal.LOCK_SECONDS", 1)
    killed = Journal(Path("logs/s.journal"))
    killed._writers_lock.acquire()
    assert Path("logs/s.journal.lock").exists()  # follows the link
    study_in(Path("logs/s.journal")).set_user_attr("d", 1)
    assert set(attributes(Path("logs/s.journal"))) == {"a", "b", "c", "d"}
