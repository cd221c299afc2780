from __future__ import annotations

import tomllib
from pathlib import Path

from dmcore.charts import theme

CONFIG = tomllib.loads((Path(__file__).parents[2] / ".streamlit" / "config.toml").read_text())


def test_the_apps_theme_repeats_the_colours_of_the_charts() -> None:
    light, dark = CONFIG["theme"]["light"], CONFIG["theme"]["dark"]
    assert light["chartCategoricalColors"] == [theme.LIGHT_COLOURS[part] for part in theme.PARTS]
    assert dark["chartCategoricalColors"] == [theme.DARK_COLOURS[part] for part in theme.PARTS]
    assert light["chartSequentialColors"] == list(theme.LIGHT_SEQUENCE)
    assert dark["chartSequentialColors"] == list(theme.DARK_SEQUENCE)


def test_the_colours_are_those_of_the_design() -> None:
    assert list(theme.LIGHT_COLOURS.values()) == ["#999999", "#0072B2", "#E69F00", "#D55E00", "#222222"]
    assert theme.PICTURE_CONFIG["range"]["category"] == list(theme.LIGHT_COLOURS.values())
    changed = {part for part in theme.PARTS if theme.DARK_COLOURS[part] != theme.LIGHT_COLOURS[part]}
    assert changed == {theme.TOTAL}


def test_the_app_listens_on_this_machine_only_and_reports_nothing() -> None:
    assert CONFIG["browser"]["gatherUsageStats"] is False
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["client"]["showErrorDetails"] == "none"


def test_sequences_go_one_way_in_lightness() -> None:
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = ([lightness(c) for c in sequence] for sequence in (theme.LIGHT_SEQUENCE, theme.DARK_SEQUENCE))
    assert light == sorted(light, reverse=True)
    assert dark == sorted(dark)
