"""METEOR 1.5 through pycocoevalcap, on a Java of our choice, and always stopped."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from tasks.io.caption_tokens import ScorerError, TokenisedCaptions
from tasks.io.java import complaint


def meteor_score(java: Path, texts: TokenisedCaptions, *, folder: Path | None = None) -> float:
    """METEOR of the corpus, from 0 to 1.

    Args:
        java: the `java` program.
        texts: tokenised captions.
        folder: where the jar and its data lie; pycocoevalcap's own by default.

    Raises:
        ScorerError: METEOR does not run.
    """
    from pycocoevalcap.meteor import meteor

    # The encoding is named because older Javas take the locale's, and the score would change with it.
    command = [str(java), "-Dfile.encoding=UTF-8", "-jar", "-Xmx2G", meteor.METEOR_JAR]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryDirectory(prefix="vltune-meteor-") as scratch, tempfile.TemporaryFile() as log:
        home = _readable(folder or Path(meteor.__file__).parent, meteor.METEOR_JAR, Path(scratch))
        try:
            with _running(command, home, log) as process:
                score, _ = _scorer(meteor.Meteor, process).compute_score(texts.references, texts.outputs)
        except FileNotFoundError as error:
            raise ScorerError(f"METEOR cannot be started ({error.strerror}: {error.filename})") from None
        except (OSError, ValueError):  # METEOR died: a broken pipe, or no line where a number should be
            log.seek(0)
            raise ScorerError(f"METEOR failed: {complaint(log.read())}") from None
    return float(score)


def _scorer(cls: Any, process: subprocess.Popen[bytes]) -> Any:
    """The scorer of pycocoevalcap around a running process; its own constructor would start the Java of the PATH.

    Its lock stays taken when scoring fails, and it takes the lock again when it is collected: a lock that the same
    thread may take twice keeps it from waiting for itself.
    """
    scorer = cls.__new__(cls)
    scorer.meteor_p, scorer.lock = process, threading.RLock()
    return scorer


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):  # what was not yet written to a dead process
                pipe.close()  # type: ignore[union-attr]
        process.wait()


def _readable(folder: Path, jar: str, scratch: Path) -> Path:
    """A folder with the same files whose path METEOR can read: it takes `%20` in its own path literally."""
    folder = folder.resolve()
    if quote(str(folder)) == str(folder):
        return folder
    shutil.copy(folder / jar, scratch)
    shutil.copytree(folder / "data", scratch / "data")
    return scratch
