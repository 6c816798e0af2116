"""SPICE through the jar of pycocoevalcap, where somebody has put its language models (0.4 GB, not in the package)."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import tempfile
from pathlib import Path
from statistics import fmean

from tasks.io.caption_tokens import ScorerError, TokenisedCaptions
from tasks.io.java import complaint

_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def spice_score(java: Path, texts: TokenisedCaptions, *, folder: Path | None = None) -> float:
    """Mean F-score over the images, from 0 to 1.

    Args:
        java: the `java` program.
        texts: tokenised captions.
        folder: where the jar and lib/ lie; pycocoevalcap's own by default.

    Raises:
        ScorerError: the models are missing (nothing is downloaded), or SPICE does not run or leaves out an image.
    Source: pycocoevalcap's Spice. Deviations: temporary files lie in a temporary folder instead of its package folder,
        and nothing is cached.
    """
    home = folder or _package_folder()
    missing = [name for name in _MODELS if not (home / "lib" / name).is_file()]
    if missing:
        raise ScorerError(f"SPICE has no models: put {' and '.join(missing)} of Stanford CoreNLP into {home / 'lib'}")
    items = [{"image_id": id, "test": texts.outputs[id][0], "refs": refs} for id, refs in texts.references.items()]
    with tempfile.TemporaryDirectory(prefix="vltune-spice-") as scratch:
        given, found = Path(scratch, "captions.json"), Path(scratch, "scores.json")
        given.write_text(json.dumps(items), encoding="utf-8")
        command = [str(java), "-jar", "-Xmx8G", "spice-1.0.jar", str(given), "-out", str(found), "-subset", "-silent"]
        run = subprocess.run(command, cwd=home, capture_output=True)
        if run.returncode != 0 or not found.is_file():
            raise ScorerError(f"SPICE failed: {complaint(run.stderr)}")
        given_scores = [item["scores"]["All"]["f"] for item in json.loads(found.read_text(encoding="utf-8"))]
    scores = [math.nan if score is None else float(score) for score in given_scores]
    if unscored := sum(not math.isfinite(score) for score in scores):
        raise ScorerError(f"SPICE gave no score for {unscored} of {len(scores)} images")
    return fmean(scores)


def _package_folder() -> Path:
    # Not imported: the module downloads the models as soon as its class is made.
    spec = importlib.util.find_spec("pycocoevalcap.spice")
    if spec is None or not spec.submodule_search_locations:
        raise ScorerError("this pycocoevalcap has no SPICE")
    return Path(next(iter(spec.submodule_search_locations)))
