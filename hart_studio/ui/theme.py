"""Gradio theme and asset folder of the pages; nothing is loaded from other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import LocalFont

ASSETS: Final = Path(__file__).parents[2] / "assets"
"""Style sheets, scripts and examples."""

ACCENT: Final = Color(
    name="hart_accent",
    c50="#eef1ff",
    c100="#dfe5ff",
    c200="#c3cdfd",
    c300="#9dabf7",
    c400="#7688f0",
    c500="#5065de",
    c600="#3a4cc4",
    c700="#303e9e",
    c800="#2a367d",
    c900="#262f62",
    c950="#181d3c",
)
NEUTRAL: Final = Color(
    name="hart_neutral",
    c50="#f7f8fa",
    c100="#eff1f4",
    c200="#e1e5ea",
    c300="#cbd1da",
    c400="#98a2b1",
    c500="#677285",
    c600="#4b5567",
    c700="#353e4e",
    c800="#222a38",
    c900="#171d28",
    c950="#0f141c",
)


def build_theme() -> gr.themes.Base:
    """Build the theme. Fonts are files that Gradio ships; only weights 400 and 700 of Plex are complete."""
    theme = gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=NEUTRAL,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"),
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        color_accent="*primary_600",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_300",
        block_info_text_size="*text_xs",
        block_label_text_weight="600",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_border_width="1px",
        input_shadow_focus="0 0 0 3px *primary_100",
        input_shadow_focus_dark="0 0 0 3px *primary_900",
        input_placeholder_color="*neutral_400",
        input_placeholder_color_dark="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_large_text_weight="600",
        button_transition="background-color 120ms ease",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_border_width="1px",
        checkbox_background_color_selected="*primary_600",
        checkbox_border_color_selected="*primary_600",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        loader_color="*primary_600",
    )
