"""What evaluate.py finds of a run, made up; and a strict reader of pages."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag that opens must close, in order."""

    def __init__(self, path):
        super().__init__()
        self.open, self.seen, self.texts = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def drawings(self):
        sources = re.findall(r"<svg.*?</svg>", self.source, flags=re.DOTALL)
        return [ElementTree.fromstring(drawing) for drawing in sources]

    def labels(self):
        return [drawing.get("aria-label") for drawing in self.drawings()]


def curve(points, at):
    return [at * (points - place) / points for place in range(points)]


def make_report(method="csq", nbit=4, seed=0, value=0.5, more="", print_="a" * 64, top=None):
    """A run of a few bits that was measured in every way; ``value`` moves most numbers."""
    return {
        "run": f"/somewhere/{method}/{nbit}/{seed}",
        "name": f"digits/{method}/{nbit}bit/seed{seed}{more}",
        "method": method,
        "nbit": nbit,
        "seed": seed,
        "checkpoint": "best.pt",
        "metrics": {
            "map": value,
            "map_min": value / 2,
            "ties": {"expected": value, "stable": value, "best": value, "worst": None},
            "map_at": {"100": value},
            "precision_within_radius_2": {
                "mean_zero": value / 2,
                "mean_nonempty": value,
                "empty_fraction": 0.25,
            },
            "precision_at": {"100": value, "20": value + 0.1, "1000": value / 2},
            "recall_at": {"100": 0.1, "20": 0.01, "1000": 0.9},
            "hit_rate_at": {"100": 1.0},
            "pr_curve": {
                "radius": list(range(nbit + 1)),
                "precision_macro": curve(nbit + 1, value),
                "recall_macro": [place / nbit for place in range(nbit + 1)],
                "precision_micro": curve(nbit + 1, value / 2),
                "recall_micro": [place / nbit for place in range(nbit + 1)],
                "empty_fraction": [0.5, 0.25, 0.125, *[0.0] * (nbit - 2)],
            },
            "pr_curve_by_rank": {
                "rank": [1, 10, 100],
                "precision": curve(3, value),
                "recall": [0.01, 0.1, 0.7],
            },
            "graded": None,
            "codes": {
                "quantization": {"l2": 1.0, "squared_l2": 2.0, "degrees": 30.0, "zero_codes": 0},
                "orthogonality": {"value": 3.0, "classes": 10, "empty_classes": 0},
                "separability": {"value": 1.5, "inter": 2.0, "intra": 0.5},
                "bit_correlation": 0.5,
                "histograms": {
                    "intra": [0.5, 0.5, *[0.0] * (nbit - 1)],
                    "inter": [0.0, 0.0, 1.0, *[0.0] * (nbit - 2)],
                    "intra_pairs": 10,
                    "inter_pairs": 90,
                    "seed": None,
                },
                "bits": {"balance": 0.5, "entropy": 0.9, "ones": [1.0, 0.5, 0.25, 0.5][:nbit]},
            },
            "queries": 200,
            "database": 1597,
            "nbit": nbit,
            "conventions": {"metric": "mAP@all", "ties": "expected", "top": top},
        },
        "protocol": {"dataset": "digits", "protocol": "half", "fingerprint": print_},
        "environment": {"torch": "2.15", "gpu": None},
    }


@pytest.fixture
def make():
    """Makes what was found of a run."""
    return make_report


@pytest.fixture
def read_page():
    """Reads a page."""
    return Page


@pytest.fixture
def empty_figures(monkeypatch):
    """Write all figures empty, for tests of a page: drawing is most of the work of one."""
    from deephash.report.figures import style

    save = style.save_figure

    def save_empty(figure, folder, name):
        figure.clear()
        figure.set_layout_engine("none")
        return save(figure, folder, name)

    monkeypatch.setattr(style, "save_figure", save_empty)
