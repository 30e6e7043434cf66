"""Figures: refusals, what is stored beside a picture, and that Figure 1 is readable."""

import base64
import io
import itertools
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import thumbnails
import torch
from IPython.core.displaypub import CapturingDisplayPublisher
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from transformer_lib.data import fonts
from transformer_lib.lessons import Run, figures
from transformer_lib.lessons.figures import architecture, base, png
from transformer_lib.translate.report import draw_attention

SOURCE = ["<s>", "der", "kleine", "Hund", "$5", "</s>"]
TARGET = ["<s>", "the", "small", "dog", "</s>"]
ALT = "Each English word looks at the German word it translates."


def weights(*shape: int) -> torch.Tensor:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return torch.softmax(scores, dim=-1)


def good_figure() -> Figure:
    return figures.attention_map(weights(5, 6), TARGET, SOURCE, title="Words find their partners")


@pytest.fixture
def shown(monkeypatch) -> list[dict]:
    """The outputs that a notebook would show."""
    publisher = CapturingDisplayPublisher()
    monkeypatch.setattr(base, "_shell", lambda: SimpleNamespace(display_pub=publisher))
    return publisher.outputs


BY_QUERY = torch.eye(5)[[0, 0, 1, 2, 3]].T  # a softmax over the wrong axis: columns sum to 1
SCORES = torch.eye(5) * 2 - 0.2
NAN = torch.full((5, 5), torch.nan)


@pytest.mark.parametrize(
    ("draw", "matrix", "rows", "columns", "message"),
    [
        ("token_heatmap", weights(5, 6), SOURCE, TARGET, r"swapped\? got a map of shape \(5, 6\)"),
        ("attention_map", weights(5, 6).T, TARGET, SOURCE, "axes swapped"),
        ("attention_map", weights(1, 2, 5, 6), TARGET, SOURCE, r"\(1, 2, 5, 6\).*maps\[0, 0\]"),
        ("attention_grid", BY_QUERY[None], TARGET, TARGET, "rows must sum to 1"),
        ("attention_map", SCORES, TARGET, TARGET, "before the softmax"),
        ("attention_map", NAN, TARGET, TARGET, "before the softmax"),
    ],
)
def test_wrong_maps_and_labels_are_refused(draw, matrix, rows, columns, message) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(figures, draw)(matrix, rows, columns, title="refused")


def test_rows_run_down_columns_run_right_and_a_masked_row_may_sum_to_zero() -> None:
    masked = weights(5, 6)
    masked[2] = 0.0
    ax = figures.attention_map(masked, TARGET, SOURCE, title="row 2 sees nothing").axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == TARGET
    assert [tick.get_text() for tick in ax.get_xticklabels()] == SOURCE
    assert ax.get_ylim() == (len(TARGET), 0)  # row 0 is on top
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(5, 6), masked)


def test_gold_links_have_the_source_as_column() -> None:
    fig = figures.attention_map(weights(5, 6), TARGET, SOURCE, title="gold", gold={(3, 2)})
    (cell,) = fig.axes[0].patches
    assert (int(cell.get_x()), int(cell.get_y())) == (3, 2)
    with pytest.raises(ValueError, match="two numbers swapped"):
        figures.attention_map(weights(5, 6), TARGET, SOURCE, title="gold", gold={(2, 5)})


def test_masks_do_not_rely_on_colour_alone() -> None:
    causal = torch.ones(5, 5).tril().bool()
    fig = figures.token_heatmap(causal, TARGET, TARGET, title="No look ahead")
    hatched = [collection for collection in fig.axes[0].collections if collection.get_hatch()]
    assert [len(collection.get_paths()) for collection in hatched] == [10]
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert words == ["True: may attend", "False: may not"]
    with pytest.raises(ValueError, match="a mask is boolean"):
        figures.causal_reading(weights(5, 5), TARGET, TARGET, title="no mask")


def test_signed_values_are_centred_on_zero() -> None:
    fig = figures.token_heatmap([[-1.0, 3.0]], ["a"], ["b", "c"], title="signed")
    mesh = fig.axes[0].collections[0]
    assert mesh.get_clim() == (-3.0, 3.0) and mesh.get_cmap() is figures.DIVERGING


def test_padding_is_drawn_behind_the_sentences_and_counted() -> None:
    fig = figures.padded_batches({"mixed": [[2, 4]], "alike": [[4, 4], [3]]}, title="Less padding")
    assert [bar.get_width() for bar in fig.axes[0].patches] == [4, 4, 2, 4]  # grey, then words
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["mixed: 25% padding", "alike: 0% padding"]


def test_live_curves_show_loss_floor_and_the_last_score_and_say_so_in_words() -> None:
    run = Run("Copying", 20, [1.0] * 10 + [0.0] * 10, {10: 0.8, 20: 0.7})
    curves = figures.LiveCurves(run, floor=0.6)
    (loss,) = curves.figure().axes
    mean, validation, floor = loss.lines
    assert validation.get_xydata().tolist() == [[10, 0.8], [20, 0.7]]
    assert mean.get_xdata().tolist() == list(range(9, 20))  # of the last ten steps each
    assert mean.get_ydata()[[0, -1]] == pytest.approx([1, 0])
    assert "training loss is 0.00, the validation loss 0.70" in curves.alt()
    assert mean.get_label() == "training (mean of 10 steps)"
    assert set(floor.get_ydata()) == {0.6} and loss.texts[0].get_text() == "lowest possible"
    run.scores = {10: 0.25, 20: 1.0}
    _, right = curves.figure().axes
    (line,) = right.lines
    assert line.get_xydata().tolist() == [[10, 0.25], [20, 1.0]]
    assert right.get_xlim() == (0, 20) and not line.get_clip_on()  # the last point is on the edge
    assert "20 of 20 steps" in curves.alt() and "100% right" in curves.alt()


def test_the_title_of_live_curves_is_the_step_while_it_trains_and_the_result_at_the_end() -> None:
    run = Run("Copying", 20, [1.0] * 10, {10: 0.8})
    curves = figures.LiveCurves(run)
    assert curves.title().startswith("Copying: step 10 of 20, ")
    run.losses, run.validation = [1.0] * 20, {10: 0.7, 20: 0.8}  # the weights of step 10 are kept
    assert curves.title() == "Copying: validation loss 0.70 after 10 steps"
    run.scores = {10: 0.25, 20: 1.0}
    assert curves.title() == "Copying: 25.0% of the sentences exactly right after 10 steps"


def test_what_is_normalized_together_has_one_color() -> None:
    fig = figures.normalized_groups(torch.zeros(3, 2), torch.zeros(3, 2), title="two axes")
    groups = [ax.collections[0].get_array().reshape(3, 2) for ax in fig.axes]
    assert groups[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert groups[1].tolist() == [[0, 1]] * 3


def test_the_peak_of_a_rate_is_marked_and_numbered() -> None:
    fig = figures.rate_curves({"a": [0.1, 0.5, 0.2]}, title="t", warmup={"a": 2})
    assert fig.axes[0].lines[1].get_xydata().tolist() == [[2, 0.5]]
    assert "0.50000" in [text.get_text() for text in fig.axes[0].texts]


def test_levels_are_where_they_belong_and_the_smoothing_is_named() -> None:
    fig = figures.loss_curves({"a": [3.0] * 20}, title="t", levels={"low": 1.0, "high": 2.0})
    (ax,) = fig.axes
    named = {text.get_text(): text.xy[1] for text in ax.texts}
    assert (named["low"], named["high"]) == (1.0, 2.0)
    assert [set(np.round(line.get_ydata(), 9)) for line in ax.lines] == [{3.0}, {1.0}, {2.0}]
    assert ax.get_ylabel().endswith("(mean of 10 steps)")


@pytest.mark.parametrize(("vmax", "extend"), [(0.5, "max"), (1.0, "neither")])
def test_a_colour_bar_says_when_larger_values_look_alike(vmax: float, extend: str) -> None:
    certain = torch.eye(5)[None].expand(2, 5, 5)
    fig = figures.attention_grid(certain, TARGET, TARGET, title="heads", vmax=vmax)
    assert fig.axes[-1]._colorbar.extend == extend


def test_only_post_norm_has_a_layer_norm_on_the_residual_path() -> None:
    heights = []
    for ax in figures.norm_orders(title="Where the LayerNorm is").axes:
        path = next(text.get_position()[1] for text in ax.texts if text.get_text() == "x")
        norms = [text for text in ax.texts if text.get_text() == "LayerNorm"]
        heights.append([text.get_position()[1] == path for text in norms])
    assert heights == [[True, True], [False, False]]


@pytest.mark.parametrize("end", [0.0, 0.5, 1.0])
def test_names_of_lines_stay_apart_and_inside(end: float) -> None:
    series = {f"line {n}": np.linspace(0.5, end + n / 1e4, 99) for n in range(4)}
    series |= {"low": np.linspace(0.5, 0, 99), "high": np.linspace(0.5, 1, 99)}
    fig = figures.line_plot(range(99), series, title="Ends", x_label="step", y_label="loss")
    heights = sorted(text.xy[1] for text in fig.axes[0].texts)
    assert len(heights) == 6 and heights[0] >= 0.0 and heights[-1] <= 1.0
    assert min(np.diff(heights)) >= 0.06


def test_the_alternative_text_goes_beside_the_picture(shown: list[dict]) -> None:
    assert figures.show(good_figure(), alt=ALT) is None  # a cell's last value would be shown again
    (output,) = shown
    assert output["metadata"]["image/png"]["alt"] == ALT
    assert output["data"]["text/plain"] == f"Figure: {ALT}"
    assert base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG")


def test_a_picture_can_be_replaced_by_the_same_bytes(shown: list[dict]) -> None:
    figures.show(good_figure(), alt=ALT, display_id="loss")
    figures.show(good_figure(), alt=ALT, display_id="loss", update=True)
    assert [output["transient"] for output in shown] == [{"display_id": "loss"}] * 2
    assert [output["update"] for output in shown] == [False, True]
    first, second = (base64.b64decode(output["data"]["image/png"]) for output in shown)
    assert first == second
    assert b"Software" not in first and b"matplotlib" not in first


def test_pictures_are_sharp_transparent_and_small(shown: list[dict]) -> None:
    """Twice the pixels of what is shown, with a palette that nobody can tell from all colours."""
    fig = good_figure()
    figures.show(fig, alt=ALT)
    (output,) = shown
    size = output["metadata"]["image/png"]
    data = base64.b64decode(output["data"]["image/png"])
    picture = Image.open(io.BytesIO(data))
    assert np.abs(np.array(picture.size) - 2 * np.array([size["width"], size["height"]])).max() <= 1
    assert np.array(picture.convert("RGBA"))[0, 0, 3] == 0  # the page is seen at the corner
    exact = io.BytesIO()
    fig.savefig(exact, dpi=220)
    full = np.array(Image.open(exact).convert("RGBA"))
    small = png.compress(full)
    assert len(small) < 0.7 * len(exact.getvalue())
    changed = np.array(Image.open(io.BytesIO(small)).convert("RGBA"), float) - full
    assert np.abs(changed)[full[..., 3] == 255].mean() < 0.2


def contrast(colour: str, page: str) -> float:
    """The ratio of luminances by the Web Content Accessibility Guidelines."""
    both = np.array([matplotlib.colors.to_rgb(colour), matplotlib.colors.to_rgb(page)])
    linear = np.where(both <= 0.04045, both / 12.92, ((both + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("page", "text"), [("white", 4.5), ("#111111", 4.0)])
def test_text_and_lines_are_seen_on_a_white_and_on_a_dark_page(page: str, text: float) -> None:
    assert contrast(figures.INK, page) >= text and contrast(figures.MUTED, page) >= 4.0
    assert min(contrast(colour, page) for colour in figures.PALETTE) >= 3.0


def test_masked_cells_are_hatched_and_small_weights_are_not() -> None:
    maps = torch.tensor([[[0.99, 0.01], [1.0, 0.0]]])
    for fig in (
        figures.attention_map(maps[0], ["a", "b"], ["c", "d"], title="map"),
        figures.attention_grid(maps, ["a", "b"], ["c", "d"], title="grid"),
    ):
        hatched = [cells for cells in fig.axes[0].collections if cells.get_hatch()]
        ((cell,),) = [cells.get_paths() for cells in hatched]
        assert cell.get_extents().p0.tolist() == [1, 1]
        assert "masked" in fig.legends[0].get_texts()[0].get_text()


@pytest.mark.parametrize(
    ("breaks", "alt", "message"),
    [
        (lambda fig: None, "  a heatmap  ", "say what the figure shows"),
        (lambda fig: fig.suptitle(""), ALT, "no title"),
        (lambda fig: fig.axes[0].set_xlabel(""), ALT, "no x label"),
        (lambda fig: fig.axes[0].set_ylabel(""), ALT, "no y label"),
        (lambda fig: fig.axes[1].set_ylabel(""), ALT, "colour bar without a label"),
        (lambda fig: fig.axes[0].text(1, 1, "tiny", fontsize=6), ALT, "'tiny' is set in 6 points"),
    ],
)
def test_house_rules_are_enforced(breaks, alt: str, message: str, shown: list[dict]) -> None:
    fig = good_figure()
    breaks(fig)
    with pytest.raises(ValueError, match=message):
        figures.show(fig, alt=alt)
    assert not shown


def test_diagrams_shared_labels_and_hidden_axes_are_fine(shown: list[dict]) -> None:
    figures.show(figures.figure_one(here=3), alt=ALT)
    figures.show(figures.attention_grid(weights(3, 5, 6), TARGET, SOURCE, title="heads"), alt=ALT)
    fig, (left, right) = figures.figure(6, 3, 2, 1, sharex=True)
    figures.name_axes(left, title="One axis has no meaning, the other is shared", x="step")
    left.yaxis.set_visible(False)
    figures.name_axes(right, y="loss")
    figures.show(fig, alt=ALT)
    assert len(shown) == 3


def test_outside_a_notebook_no_figure_is_left_open_and_no_setting_changed(capsys) -> None:
    before = dict(matplotlib.rcParams)
    figures.show(good_figure(), alt=ALT)
    assert capsys.readouterr().out == f"Figure: {ALT}\n"
    mine, ax = plt.subplots()
    figures.name_axes(ax, title="Made with pyplot", x="x", y="y")
    figures.show(mine, alt=ALT)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


# Figure 1

EVERY_SHAPE = {name: "(1, 10, 37000)" for name in architecture.SHAPES}
NO_LABEL = {"encoder", "decoder", "causal mask", "padding mask"}  # no words inside
VIEWS = [dict(here=number) for number in range(1, 8)]
VIEWS += [{}, dict(here=6, shapes=EVERY_SHAPE), dict(here=4, title="A title of two lines " * 4)]


def boxes(fig: Figure) -> dict[Text, Bbox]:
    """Each visible text and the rectangle it covers, in pixels."""
    fig.draw_without_rendering()
    texts = [text for text in fig.findobj(Text) if text.get_text() and text.get_visible()]
    on_screen = [text for text in texts if text.axes is None or text in text.axes.texts]
    return {text: text.get_window_extent() for text in on_screen}


def frames(fig: Figure) -> list[Patch]:
    """The boxes, the frames of the stacks and of the mask chips."""
    return [patch for patch in fig.axes[0].patches if patch.get_gid()]


def within(box: Bbox, frame: Patch) -> bool:
    around = frame.get_window_extent()
    return around.x0 < box.x0 < box.x1 < around.x1 and around.y0 < box.y0 < box.y1 < around.y1


@pytest.mark.parametrize("view", VIEWS)
def test_figure_one_can_be_read(view: dict) -> None:
    fig = figures.figure_one(**view)
    found = boxes(fig)
    assert len(found) >= 25
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        assert not first.overlaps(second), f"{one.get_text()!r} lies on {other.get_text()!r}"
    for text, box in found.items():
        inside = fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1
        assert inside and fig.bbox.y0 <= box.y0 and box.y1 <= fig.bbox.y1, text.get_text()
        assert text.get_fontsize() >= base.SMALLEST_FONT
        for frame in frames(fig):
            across = box.overlaps(frame.get_window_extent()) and not within(box, frame)
            number = text.get_text().isdigit()  # sits on a corner
            assert number or not across, f"{text.get_text()!r} crosses {frame.get_gid()!r}"


def test_words_fit_their_boxes_and_figure_one_a_laptops_screen() -> None:
    for number in range(1, 8):  # a title of two lines is higher
        assert png.png(figures.figure_one(here=number), sharpness=1)[1]["height"] <= 560, number
    fig = figures.figure_one()
    assert png.png(fig, sharpness=1)[1]["height"] <= 560
    found = boxes(fig)
    labeled = [frame for frame in frames(fig) if frame.get_gid() not in NO_LABEL]
    assert len(labeled) == 21
    for frame in labeled:
        label = [text for text in found if text.get_text() == frame.get_gid()]
        assert [within(found[text], frame) for text in label].count(True) == 1, frame.get_gid()


def strong(fig: Figure) -> list[str]:
    """What is drawn in the strong colour."""
    colour = matplotlib.colors.to_rgba(architecture.HERE)
    return sorted({frame.get_gid() for frame in frames(fig) if frame.get_edgecolor() == colour})


def test_each_notebook_highlights_its_own_parts() -> None:
    found = {number: strong(figures.figure_one(here=number)) for number in range(1, 8)}
    ids = ["inputs", "output probabilities", "outputs (shifted right)"]
    assert found == {
        1: sorted(["embedding", "linear", "softmax", *ids]),
        2: ["positional encoding"],
        3: ["causal mask", "padding mask"],
        4: ["multi-head attention"],
        5: ["add & norm", "feed-forward"],
        6: ["decoder", "encoder"],
        7: sorted(["correct outputs", "loss", *ids]),
    }


def test_unknown_notebooks_and_arrows_are_refused() -> None:
    for wrong in (0, 8):
        with pytest.raises(ValueError, match="choose from 1 to 7"):
            figures.figure_one(here=wrong)
    with pytest.raises(ValueError, match="no arrow 'memmory'"):
        figures.figure_one(shapes={"memmory": "(1, 10, 512)"})


@pytest.mark.parametrize(("only", "pale"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_figure_one_of_a_single_stack_makes_the_rest_pale(only, pale) -> None:
    (ax,) = figures.figure_one(title="a title", only=only).axes
    shown = {
        alpha: {t.get_text() for t in ax.texts if t.get_alpha() == alpha} for alpha in (None, 0.18)
    }
    assert only in shown[None] and pale in shown[0.18] and "cross-attention" in shown[0.18]
    assert {"linear", "softmax", "N ×", "feed-forward"} <= shown[None]


def test_thumbnails_differ_and_are_written_with_figure_one(tmp_path) -> None:
    thumbnails.main([str(tmp_path)])
    names = [f"{name}.png" for name in thumbnails.PICTURES]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "figure_one.png"}
    pictures = [plt.imread(tmp_path / name) for name in names]
    assert all(picture.shape[:2] == (400, 640) for picture in pictures)
    for one, other in itertools.combinations(pictures, 2):
        assert (np.abs(one - other).max(-1) > 0.1).mean() > 0.05


def test_the_lessons_name_their_alternative_texts(shown: list[dict]) -> None:
    for name, text in figures.base.alternative_texts().items():
        assert len(name) < 40 <= len(text), name
    name, text = next(iter(figures.base.alternative_texts().items()))
    figures.show(good_figure(), alt=name)
    assert shown[0]["metadata"]["image/png"]["alt"] == " ".join(text.split())


# Fonts and the reader's own settings


def test_figures_keep_the_readers_settings_and_change_none() -> None:
    """Not even when one fails; a figure of another reader has the look of the series."""
    own = {
        "font.size": 7.0,
        "font.family": ["DejaVu Serif"],
        "axes.grid": True,
        "lines.linewidth": 5,
    }
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        fig = figures.line_plot(range(3), {"a": [1, 2, 3]}, title="Mine", x_label="x", y_label="y")
        figures.show(fig, alt=ALT)
        figures.show(good_figure(), alt=ALT)
        with pytest.raises(ValueError, match="axes swapped"):
            figures.attention_map(weights(6, 5), TARGET, SOURCE, title="refused")
        assert dict(matplotlib.rcParams) == before
    texts = [text for text in fig.findobj(Text) if text.get_text()]
    assert {text.get_fontfamily()[0] for text in texts} == {"DejaVu Serif"}
    assert fig.axes[0].lines[0].get_linewidth() == 5
    assert good_figure().axes[0].xaxis.label.get_fontfamily() == ["DejaVu Sans"]


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these fonts are installed, with these letters; forget what was found before."""

    def pretend(letters_of: dict[str, str]) -> None:
        entries = [FontEntry(fname=name, name=name, style="normal") for name in letters_of]
        manager = matplotlib.font_manager.fontManager
        monkeypatch.setattr(manager, "ttflist", [*manager.ttflist, *entries])
        real = fonts._letters
        monkeypatch.setattr(
            fonts, "_letters", lambda path: frozenset(letters_of.get(path) or real(path))
        )
        monkeypatch.setattr(fonts, "TOLD", set())
        fonts._fallback.cache_clear()

    yield pretend
    fonts._fallback.cache_clear()


@pytest.mark.parametrize("draw", [figures.attention_map, draw_attention])
def test_labels_in_another_script_get_a_font_that_has_it(installed, capsys, draw) -> None:
    installed({"Zhong Serif": "小狗猫", "Zhong Sans": "小狗", "Last Resort": "小狗猫ꯍ"})
    fig = draw(weights(2, 2), ["a ▁dog", "b"], ["小狗", "猫"], title="Chinese tokens")
    family = {text.get_text(): text.get_fontfamily() for text in fig.findobj(Text)}
    assert family["小狗"][-1] == "Zhong Sans"
    assert family["猫"][-1] == "Zhong Serif" and "Zhong" not in " ".join(family["a ▁dog"])
    assert capsys.readouterr().err == ""


def test_letters_that_no_font_has_are_told_once_in_one_line(installed, capsys) -> None:
    installed({})
    for _ in range(2):  # warnings are errors here, so matplotlib's own would fail the test
        fig = figures.attention_map(weights(2, 2), ["a", "b"], ["小狗", "猫"], title="Boxes")
        figures.show(fig, alt=ALT)
    err = capsys.readouterr().err
    assert err == "warning: no installed font has 小 狗 猫: install one of Noto Sans\n"
