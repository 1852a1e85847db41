"""The figures show the numbers they are given, and nothing that was not measured."""

import copy
import math

import numpy as np
import pytest

from deephash.report import CodeSnapshot, Plane, Retrieved
from deephash.report.figures.evaluation import figures_of
from deephash.report.figures.images import codes_over_training, on_plane, retrieved
from deephash.report.figures.style import MARKERS, PALETTE, Look, save_figure
from deephash.report.run_groups import first_runs, group_seeds, mark_differences
from deephash.utils.formatting import shorten


def figures(*reports):
    return {drawing.name: drawing for drawing in figures_of(group_seeds(reports))}


def lines(drawing, panel=0):
    return [np.array(line.get_data()).tolist() for line in drawing.figure.axes[panel].lines]


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def blur(seed, size=20):
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)


def cloud(count=50, dimensions=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


# Rows: what is one line


def test_seeds_are_one_row_with_mean_and_sample_deviation(make):
    """0.5, 0.6 and 0.7: mean 0.6, deviation 0.1."""
    (row,) = group_seeds([make(seed=seed, value=0.5 + seed / 10) for seed in range(3)])
    assert row.mean_sd("metrics", "map") == pytest.approx((0.6, 0.1))
    assert row.mean_list("metrics", "pr_curve", "precision_macro")[0] == pytest.approx(0.6)
    cuts, mean, deviation = row.by_cutoff("metrics", "precision_at")
    assert cuts.tolist() == [20, 100, 1000]
    assert mean == pytest.approx([0.7, 0.6, 0.3]) and deviation == pytest.approx([0.1, 0.1, 0.05])


def test_a_label_contains_what_differs_between_runs(make):
    rows = group_seeds(
        [
            make(more=",optimizer.lr=0.1,trainer.epochs=5"),
            make(more=",optimizer.lr=0.2,trainer.epochs=5"),
            make("dpn", more=",optimizer.lr=0.2,trainer.epochs=5"),
        ]
    )
    assert [row.label for row in rows] == ["csq lr=0.1", "csq lr=0.2", "dpn lr=0.2"]
    assert [row.name for row in rows] == [
        "csq optimizer.lr=0.1",
        "csq optimizer.lr=0.2",
        "dpn optimizer.lr=0.2",
    ]


def test_a_foreign_run_does_not_bring_back_what_the_others_share(make):
    alike = [make(method, more=",trainer.epochs=5") for method in ("csq", "dpn")]
    foreign = make("csq", print_="b" * 64, more=",trainer.epochs=9,seat=1")
    rows = group_seeds([*alike, foreign])
    assert [row.label for row in rows] == ["csq", "dpn", "csq *"]


def test_keys_with_the_same_ending_are_shown_in_full(make):
    rows = group_seeds([make(more=",a.size=1,lr=1"), make(more=",b.size=1,x.rate=2")])
    assert [row.label for row in rows] == ["a.size=1 lr=1", "b.size=1 rate=2"]


def test_a_label_is_short_and_no_two_are_the_same(make):
    long = [make(more=f",{'a' * 60}{middle}{'z' * 60}") for middle in "xy"]
    rows = group_seeds(long)
    labels = [row.label for row in rows]
    assert labels == ["…aaaaxzzzz…", "…aaaayzzzz…"]
    assert [row.name for row in rows] == [f"csq {'a' * 60}{middle}{'z' * 60}" for middle in "xy"]


@pytest.mark.parametrize("others", [[], ["csq"]])
def test_runs_that_differ_in_one_value_are_labelled_by_it(others, make):
    """Whatever else was typed, however long it is, and whatever they are compared with."""
    more = ",method.loss.margin=0.5,method.loss.beta={},optimizer.weight_decay=0.0005,trainer=early"
    rows = group_seeds(
        [make("relahash", more=more.format(beta)) for beta in (5, 10, 50)]
        + [make(name) for name in others]
    )
    labels = [f"{'relahash ' * bool(others)}beta={beta}" for beta in (5, 10, 50)]
    assert [row.label for row in rows] == [*labels, *others]
    common = "relahash, method.loss.margin=0.5, optimizer.weight_decay=0.0005, trainer=early"
    assert {row.common for row in rows} == {common if not others else ""}
    if not others:
        assert all(f"All runs: {common}." in figure.caption for figure in figures_of(rows))


def test_long_values_lose_only_what_they_share(make):
    values = [f"weights-of-a-very-long-name-{part}-and-its-end" for part in ("one", "three")]
    rows = group_seeds([make("csq", more=f",lr=1,backbone.weights={value}") for value in values])
    assert [row.label for row in rows] == ["weights=…ame-one-an…", "weights=…ame-three-an…"]
    whole = [f"csq backbone.weights={value}" for value in values]
    assert [row.name for row in rows] == whole
    first, second = (f"{part}{'x' * 100}" for part in "ab")
    rows = group_seeds([make(more=f",k={first}"), make(more=f",k={second}")])
    assert [row.label for row in rows] == ["k=axxxx…", "k=bxxxx…"]


def test_a_shortened_name_is_given_in_full_elsewhere(make):
    rows = group_seeds(
        [
            make(more=",a.size=1~0123456789ab") | {"full_name": f"d/csq/4bit/seed0,size=1,z={z}"}
            for z in (7, 8)
        ]
    )
    assert [row.label for row in rows] == ["z=7", "z=8"]


def test_a_long_label_is_broken_not_cut(make):
    more = ",".join(f"key{number}.option{number}={number}.25" for number in range(12))
    drawn = figures(make(more=f",{more},x=1"), make("dpn"), make(more=f",{more},x=2"))
    texts = [text.get_text() for text in drawn["pr_by_rank"].figure.legends[0].get_texts()]
    assert texts[0].replace("\n", " ") == "csq x=1" and texts[1] == "dpn"
    drawn = figures(make(more=f",{more},x=1"), make("dpn"))
    texts = [text.get_text() for text in drawn["pr_by_rank"].figure.legends[0].get_texts()]
    assert "option11=11.25" in texts[0] and "\n" in texts[0]


def test_the_note_names_what_differs(make):
    other = make("dpn", print_="b" * 64)
    other["protocol"] |= {"dataset": "cifar10", "protocol": "59k", "num_train": 9}
    small = make("dtsh", print_="c" * 64)
    small["protocol"]["num_classes"] = 4
    ties = make("ce")
    ties["metrics"]["conventions"]["ties"] = "stable"
    rows = group_seeds([make(), other, small, ties, make("jmlh", top=100)])
    assert mark_differences(rows) == {
        "*": "dataset cifar10 (digits), protocol 59k (half), fingerprint bbbbbbbb (aaaaaaaa)",
        "†": "num_classes 4 (–), fingerprint cccccccc (aaaaaaaa)",
        "‡": "ties stable (expected)",
        "§": "top 100 (–)",
    }
    assert mark_differences(group_seeds([make(), make("dpn")])) == {}


def test_a_cut_at_the_whole_database_is_no_difference_of_conventions(make):
    first, second = make(top=1597), make("dpn", print_="b" * 64, top=640)
    second["metrics"]["database"] = 640
    assert mark_differences(group_seeds([first, second])) == {
        "*": "fingerprint bbbbbbbb (aaaaaaaa)"
    }


def test_the_same_run_twice_is_not_two_seeds(make):
    again = make(value=0.7)
    rows = group_seeds([make(), again, make(seed=1)])
    assert [(row.label, len(row.runs)) for row in rows] == [("csq", 2), ("csq (2)", 1)]
    last = {**make(value=0.7), "checkpoint": "last.pt"}
    assert [row.label for row in group_seeds([make(), last])] == ["csq (best)", "csq (last)"]


def test_another_fingerprint_or_convention_is_a_marked_row_of_its_own(make):
    rows = group_seeds([make(), make(seed=1, print_="b" * 64), make("dpn", top=100)])
    assert [(row.label, row.mark) for row in rows] == [("csq", ""), ("csq *", "*"), ("dpn †", "†")]
    assert list(first_runs(rows)) == ["", "*", "†"]


def test_a_method_looks_the_same_over_all_bits(make):
    rows = group_seeds([make(nbit=4), make("dpn", nbit=4), make(nbit=8), make("dpn", nbit=8)])
    assert [row.index for row in rows] == [0, 1, 0, 1]


def test_a_run_that_is_named_by_its_folder_alone_is_called_by_its_method(make):
    assert group_seeds([make() | {"name": "seed0"}])[0].label == "csq"


# One run


def test_one_run_has_the_curves_as_they_were_measured(make):
    report = make()
    drawn = figures(report)
    assert list(drawn) == ["precision_recall", "precision_at", "recall_at", "distances", "bits"]
    metrics = report["metrics"]
    rank, macro, micro = lines(drawn["precision_recall"])[:3]
    for line, kind in ((macro, "macro"), (micro, "micro")):
        assert line[0] == metrics["pr_curve"][f"recall_{kind}"]
        assert line[1] == metrics["pr_curve"][f"precision_{kind}"]
    assert rank == [metrics["pr_curve_by_rank"][name] for name in ("recall", "precision")]
    assert lines(drawn["precision_at"]) == [[[20, 100, 1000], [0.6, 0.5, 0.25]]]
    assert lines(drawn["recall_at"]) == [[[20, 100, 1000], [0.01, 0.1, 0.9]]]


def test_round_ranks_are_pointed_out_on_the_line(make):
    report = make()
    report["metrics"]["pr_curve_by_rank"] = {
        "rank": [1, 9, 70, 1012],
        "precision": [0.9, 0.8, 0.7, 0.1],
        "recall": [0.0, 0.3, 0.6, 0.9],
    }
    drawn = figures(report)["precision_recall"].figure
    annotations = [text for text in drawn.axes[0].texts if text.get_text().startswith("k = ")]
    assert [text.get_text() for text in annotations] == ["k = 1", "k = 10", "k = 100", "k = 1,000"]
    assert annotations[0].xy == pytest.approx([0.0, 0.9])
    assert annotations[1].xy == pytest.approx([0.3 + 0.3 / 61, 0.8 - 0.1 / 61])


def test_captions_tell_conventions_and_sizes(make):
    drawn = figures(make())
    radius = drawn["precision_recall"].caption
    assert "precision is 0 for a query with an empty ball" in radius
    assert "Empty balls at r = 2: 12.5%." in radius
    assert all("200 queries, 1,597 images" in figure.caption for figure in drawn.values())
    assert "Eq. 23" in drawn["distances"].caption and "sample" not in drawn["distances"].caption
    sampled = make()
    sampled["metrics"]["codes"]["histograms"]["seed"] = 7
    assert "a sample of the pairs (seed 7)" in figures(sampled)["distances"].caption


def test_the_arrow_goes_from_mean_to_mean(make):
    drawn = figures(make())["distances"]
    (panel,) = drawn.figure.axes
    arrow = next(text for text in panel.texts if text.arrow_patch is not None)
    assert (arrow.xyann[0], arrow.xy[0]) == (0.5, 2.0)
    assert "separability 1.50" in texts(drawn.figure)
    shares = [patch.get_data().values.tolist() for patch in panel.patches]
    assert shares[0] == [0.5, 0.5, 0, 0, 0] and shares[-1] == [0, 0, 1, 0, 0]


def test_without_separability_the_means_are_those_of_the_histograms(make):
    report = make()
    report["metrics"]["codes"]["separability"] = None
    report["metrics"]["codes"]["histograms"]["inter"] = [1.0, 0, 0, 0, 0]
    assert "separability −0.50" in texts(figures(report)["distances"].figure)


def test_ternary_codes_have_half_radii(make):
    report = make()
    curve = report["metrics"]["pr_curve"]
    curve["radius"] = [0, 0.5, 1, 1.5, 2]
    assert "r = 2: 0.0%" in figures(report)["precision_recall"].caption


def test_dead_bits_are_named(make):
    drawn = figures(make())["bits"].figure
    assert sorted(bar.get_height() for bar in drawn.axes[0].patches) == [0.25, 0.5, 0.5, 1.0]
    assert "dead" in texts(drawn)
    alive = make()
    alive["metrics"]["codes"]["bits"]["ones"] = [0.5] * 4
    assert "dead" not in texts(figures(alive)["bits"].figure)


# Several


def test_several_runs_have_lines_over_bits_and_bars(make):
    reports = [make(m, nbit, value=0.1 * nbit) for m in ("csq", "dpn", "dtsh") for nbit in (4, 8)]
    drawn = figures(*reports)
    assert set(drawn) == {
        "map_over_bits", "precision_within_radius_2", "pr_by_rank", "pr_by_radius", "precision_at",
        "recall_at", "distances", "separability", "quantization", "orthogonality", "bits",
    }  # fmt: skip
    solid = lines(drawn["map_over_bits"])
    assert len(solid) == 3 and solid[0] == [[0, 1], [0.4, 0.8]]
    panel = drawn["map_over_bits"].figure.axes[0]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["4", "8"]
    balls = lines(drawn["precision_within_radius_2"])
    assert [line[1] for line in balls] == [[0.2, 0.4]] * 3 + [[0.4, 0.8]] * 3
    (key,) = drawn["precision_within_radius_2"].figure.legends
    *_, solid, dashed = key.legend_handles
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert [text.get_text() for text in key.texts][-2:] == [
        "an empty ball counts 0",
        "non-empty balls only",
    ]
    assert len(drawn["pr_by_radius"].figure.axes) == 4  # two numbers of bits, macro and micro
    assert len(drawn["precision_at"].figure.axes) == 2
    visible = [panel for panel in drawn["distances"].figure.axes if panel.get_visible()]
    assert len(visible) == 6
    errors = drawn["quantization"].figure.axes
    assert len(errors) == 6
    assert [bar.get_width() for bar in errors[1].patches] == [2.0, 2.0, 2.0]
    names = drawn["quantization"].figure.axes[0].get_yticklabels()
    assert [name.get_text() for name in names] == ["csq", "dpn", "dtsh"]


def test_one_number_of_bits_has_bars_instead_of_lines(make):
    drawn = figures(make(value=0.5), make("dpn", value=0.25))
    assert "map_over_bits" not in drawn
    balls = drawn["precision_within_radius_2"].figure.axes
    assert [[bar.get_width() for bar in panel.patches] for panel in balls] == [
        [0.25, 0.125],
        [0.5, 0.25],
    ]
    assert balls[0].get_xlim() == balls[1].get_xlim()
    (panel,) = drawn["map"].figure.axes
    assert [bar.get_width() for bar in panel.patches] == [0.5, 0.25]


def test_bars_of_several_bits_are_below_each_other(make, tmp_path):
    drawn = figures(*(make(m, nbit) for m in ("csq", "dpn") for nbit in (4, 8, 16)))["separability"]
    save_figure(drawn.figure, tmp_path, "bars")
    panels = drawn.figure.axes
    assert [panel.get_title() for panel in panels] == ["4 bits", "8 bits", "16 bits"]
    boxes = [panel.get_position() for panel in panels]
    assert len({round(box.x0, 3) for box in boxes}) == 1 and boxes[0].y0 > boxes[1].y1
    assert all(box.width > 0.6 for box in boxes)


def test_distances_share_a_scale_among_the_same_bits_only(make):
    sharp = make("csq", 16)
    sharp["metrics"]["codes"]["histograms"]["inter"][2] = 0.1
    sharp["metrics"]["codes"]["histograms"]["intra"] = [0.1] * 10 + [0.0] * 7
    runs = [make("csq", 2), make("dpn", 2), sharp, make("dpn", 4), make("dtsh", 8)]
    runs[3]["metrics"]["codes"]["histograms"]["intra"][0] = 0.2
    panels = [p for p in figures(*runs)["distances"].figure.axes if p.get_visible()]
    titles = [panel.get_title() for panel in panels]
    assert titles == ["csq, 2 bits", "dpn, 2 bits", "dpn, 4 bits", "dtsh, 8 bits", "csq, 16 bits"]
    tops = [panel.get_ylim()[1] for panel in panels]
    assert tops[0] == tops[1] > 5 * tops[4]
    labelled = [panel.yaxis.get_tick_params()["labelleft"] for panel in panels]
    assert labelled == [True, False, True, True, True]


def test_distances_fill_their_grid(make):
    runs = [make("csq", 2), make("dpn", 4), *(make(m, 8) for m in ("a", "b", "c", "d"))]
    panels = figures(*runs)["distances"].figure.axes
    assert sum(panel.get_visible() for panel in panels) == 6 and len(panels) == 8


def test_cuts_stand_on_a_logarithmic_axis_and_shares_start_at_0(make):
    for name in ("precision_at", "recall_at"):
        figure = figures(make(), make("dpn"))[name].figure
        figure.draw_without_rendering()
        (panel,) = figure.axes
        assert panel.get_xscale() == "log" and panel.get_ylim()[0] == 0
        shown = [tick.get_text() for tick in panel.get_xticklabels()]
        assert {"20", "100", "1,000"} <= set(shown)


def test_bits_are_whole(make):
    for reports in ([make(nbit=2)], [make(nbit=2), make("dpn", nbit=2)]):
        figure = figures(*reports)["bits"].figure
        figure.draw_without_rendering()
        assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_bars_and_bands_show_the_deviation(make):
    drawn = figures(*(make(seed=s, value=0.5 + s / 10) for s in range(3)), make("dpn"))
    assert "0.600 ± 0.10" in texts(drawn["map"].figure) and "0.500" in texts(drawn["map"].figure)
    assert "Means over 1 to 3 seeds, ± sd" in drawn["map"].caption
    assert len(drawn["precision_at"].figure.axes[0].collections) == 1


def test_what_does_not_compare_is_marked_in_every_figure(make):
    drawn = figures(make(), make("dpn", print_="b" * 64), make("dpn", nbit=8))
    for name, drawing in drawn.items():
        shown = texts(drawing.figure)
        assert any("dpn *" in text for text in shown), name
        assert any("fingerprint bbbbbbbb (aaaaaaaa)" in text for text in shown), name
    fine = figures(make(), make("dpn"))
    assert not any("fingerprint" in t for figure in fine.values() for t in texts(figure.figure))


def test_bits_of_several_runs_are_in_order_of_their_share(make):
    (first, _) = lines(figures(make(), make("dpn"))["bits"])
    assert first == [[1, 2, 3, 4], [0.25, 0.5, 0.5, 1.0]]


@pytest.mark.parametrize("gone", [None, {}, "absent"])
def test_what_was_not_measured_is_left_out(make, gone):
    names = {
        "pr_curve pr_curve_by_rank": "precision_recall",
        "precision_at": "precision_at",
        "recall_at": "recall_at",
        "codes": "distances bits",
    }
    for key, figure in names.items():
        report = make()
        for name in key.split():
            report["metrics"][name] = gone
            if gone == "absent":
                del report["metrics"][name]
        assert set(figures(make())) - set(figures(report)) == set(figure.split())


def test_of_nothing_there_is_no_figure(make):
    bare = {"metrics": {}, "protocol": None}
    assert figures(bare) == {} == figures({}) == figures(bare, {**bare, "nbit": 8})


def test_what_is_no_number_breaks_a_line_and_draws_no_bar(make, tmp_path):
    report = make()
    report["metrics"]["pr_curve"]["precision_macro"][1] = None
    report["metrics"]["precision_at"]["100"] = None
    report["metrics"]["map"] = math.nan
    report["metrics"]["codes"]["quantization"]["degrees"] = None
    report["metrics"]["codes"]["histograms"]["intra"][1] = None
    alone = figures(report)
    assert math.isnan(lines(alone["precision_recall"])[1][1][1])
    assert lines(alone["precision_at"])[0][0] == [20, 1000]
    for drawing in [*alone.values(), *figures(report, make("dpn"), make(nbit=8)).values()]:
        save_figure(drawing.figure, tmp_path, drawing.name)


# Pictures


def test_retrieved_images_are_framed_and_marked():
    row = Retrieved(
        blur(0), "ship, AP 0.5", [blur(1), blur(2, 31)], [True, False], ["a, b, 0", "b, 1"]
    )
    drawing = retrieved([row, row])
    shown = texts(drawing.figure)
    assert (shown.count("✓"), shown.count("✗")) == (2, 2)
    assert shown.count("ship, AP 0.5") == 2 and "a, b\n0" in shown
    (panel,) = drawing.figure.axes
    assert len(panel.images) == 6
    colours = [line.get_color() for line in panel.lines]
    assert len({*colours}) == 3 and colours[1] != colours[2]
    assert np.array_equal(panel.images[1].get_array(), blur(1))
    assert retrieved([]) is None


def test_images_keep_their_shape():
    tall = np.zeros((40, 20, 3), dtype=np.uint8)
    (panel,) = retrieved([Retrieved(tall, "", [tall], [True], [""])]).figure.axes
    left, right, bottom, top = panel.images[0].get_extent()
    assert (bottom - top) / (right - left) == pytest.approx(2)


def test_a_plane_of_few_classes_has_a_legend(tmp_path):
    classes = np.arange(50) % 4 - 1
    drawing = on_plane(Plane(cloud(), classes, ["cat", "dog"], "t-SNE, seed 0"))
    assert [text.get_text() for text in drawing.figure.legends[0].texts] == [
        "cat",
        "dog",
        "class 2",
    ]
    assert drawing.caption == "t-SNE, seed 0. Grey: no class."
    assert (
        sum(len(collection.get_offsets()) for collection in drawing.figure.axes[0].collections)
        == 50
    )
    assert on_plane(None) is None


def test_a_plane_of_many_classes_is_numbered():
    classes = np.arange(200) % 100
    figure = on_plane(Plane(cloud(200), classes, [], "codes")).figure
    assert not figure.legends
    assert [text.get_text() for text in figure.axes[0].texts] == [
        str(number) for number in range(100)
    ]


def test_thousands_of_points_are_an_image(tmp_path):
    classes = np.arange(20_000) % 10
    drawing = on_plane(Plane(cloud(20_000), classes, [], "codes"))
    svg, _ = save_figure(drawing.figure, tmp_path, "tsne")
    assert svg.stat().st_size < 500_000 and "data:image/png" in svg.read_text()


@pytest.mark.parametrize("nbit", [2, 3])
def test_snapshots_are_panels_with_the_corners(nbit):
    classes = np.arange(50) % 2
    centers = np.ones((2, nbit))
    shots = [CodeSnapshot(epoch, cloud(50, nbit), classes, centers) for epoch in (0, 5, 20)]
    drawing = codes_over_training(shots)
    panels = drawing.figure.axes
    assert [panel.get_title() for panel in panels] == ["epoch 0", "epoch 5", "epoch 20"]
    assert len({panel.get_xlim() for panel in panels}) == 1
    corners = panels[0].collections[-1]
    count = len(corners.get_offsets())
    assert count == 2**nbit
    assert [text.get_text() for text in drawing.figure.legends[0].texts] == ["class 0", "class 1"]
    assert codes_over_training([]) is None


@pytest.mark.parametrize("nbit", [2, 3])
def test_centers_in_one_place_are_rings_around_each_other_on_top(nbit):
    centers = np.stack([np.ones(nbit), np.ones(nbit), -np.ones(nbit)])
    shot = CodeSnapshot(0, cloud(9, nbit), np.arange(9) % 3, centers)
    (panel,) = codes_over_training([shot]).figure.axes
    rings = [collection for collection in panel.collections if collection.get_zorder() == 5]
    sizes = [float(ring.get_sizes()[0]) for ring in rings]
    assert len(sizes) == 6 and sizes[0] == sizes[1] == sizes[4] == sizes[5] < sizes[2] == sizes[3]
    assert all(not len(ring.get_facecolors()) for ring in rings)
    below = [
        collection.get_zorder()
        for collection in panel.collections
        if len(collection.get_offsets()) == 3
    ]
    assert below and max(below) < 5
    assert nbit == 2 or not panel.computed_zorder


def test_of_many_snapshots_some_are_shown():
    classes = np.zeros(5, dtype=int)
    drawing = codes_over_training([CodeSnapshot(n, cloud(5), classes, None) for n in range(101)])
    titles = [panel.get_title() for panel in drawing.figure.axes]
    assert len(titles) == 12 and (titles[0], titles[-1]) == ("epoch 0", "epoch 100")
    assert "12 of 101 saved epochs" in drawing.caption


def test_snapshots_of_other_bits_are_refused():
    with pytest.raises(ValueError, match="not 4"):
        codes_over_training([CodeSnapshot(0, cloud(5, 4), np.zeros(5, dtype=int), None)])


# Style


def test_looks_differ():
    looks = [Look.of(place) for place in range(40)]
    assert len({(look.colour, look.marker, str(look.dash)) for look in looks}) == 40
    assert len({look.colour for look in looks[: len(PALETTE)]}) == len(PALETTE)
    assert len({look.marker for look in looks[: len(MARKERS)]}) == len(MARKERS)


@pytest.mark.parametrize(("most", "short"), [(31, "relahash method.loss.margin=0.5"), (4, "re…5")])
def test_a_text_keeps_its_ends(most, short):
    assert shorten("relahash method.loss.margin=0.5", most) == short


def test_the_same_figure_gives_the_same_bytes(make, tmp_path):
    def files(folder):
        folder.mkdir()
        drawings = figures(make(), make("dpn", print_="b" * 64)).values()
        return [
            path.read_bytes()
            for drawing in drawings
            for path in save_figure(drawing.figure, folder, drawing.name)
        ]

    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_untrusted_text_is_neither_formula_nor_missing_glyph(make, tmp_path):
    drawing = figures(make("$\\frac{1}{"), make("船 <b>&"))["map"]
    save_figure(drawing.figure, tmp_path, "map")
    assert "$\\frac{1}{" in texts(drawing.figure)


def test_found_is_not_changed(make):
    reports = [make(), make("dpn", nbit=8)]
    before = copy.deepcopy(reports)
    figures(*reports)
    assert reports == before
