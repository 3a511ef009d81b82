"""Display names of metrics: a distance is called FID only with the official Inception weights."""

from __future__ import annotations

#: beginning of the sha256 of torch-fidelity's weights, the only ones whose distance is called FID
OFFICIAL = "@6726825d/"
#: preprocessing -> suffix of the name
CLEAN = {"tf1-bilinear": "", "pil-bicubic": " (clean)"}
SHORT = {"frechet": "FID", "frechet-infinity": "FID-infinity", "kid": "KID"}
LONG = {
    "frechet": "Fréchet distance",
    "frechet-infinity": "Fréchet distance at infinite n",
    "kid": "kernel distance",
    "inception-score": "Inception Score",
}


def label(metric: str, extractor_id: str) -> str:
    """The name of a metric on an extractor, e.g. `FID`, or `Fréchet distance`.

    Only features of the official Inception weights (by hash) make a FID, KID or Inception Score.
    """
    if is_official(extractor_id) and metric in SHORT:
        return SHORT[metric] + CLEAN[extractor_id.partition(" vs ")[0].partition(OFFICIAL)[2]]
    return LONG.get(metric, metric)


def is_official(extractor_id: str) -> bool:
    """Whether features with this id come from the official Inception weights, by hash."""
    name, _, preprocess = extractor_id.partition(" vs ")[0].partition(OFFICIAL)
    return name in ("inception", "inception-clean") and preprocess in CLEAN
