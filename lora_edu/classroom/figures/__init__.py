"""The course's figures: arrays in, axes out, one house style.

A figure is the value of its cell and shows itself: a PNG, then its `alt` as a line of text. JupyterLab and
GitHub ignore the alternative text of an output's picture, so it stands below as well, where every screen
reader finds it. A figure makes that sentence itself, from what it drew; `alt` replaces it. With `ax` given,
a function clears it and draws there; so `widgets.explore` redraws in place.

`palette` says what each colour means, `schematic` holds the drawings that return through the course, and
docs/pictures.md shows them all.
"""

from lora_edu.classroom.figures._canvas import (
    DENSITY,
    PANEL_INCHES,
    STYLE,
    Picture,
    freeze_layout,
    is_cut_off,
    new_pictures,
    png_output,
    text_output,
    to_png,
    to_quick_png,
)
from lora_edu.classroom.figures.bars import bars
from lora_edu.classroom.figures.beside import beside
from lora_edu.classroom.figures.bits import bit_fields, error_budget
from lora_edu.classroom.figures.charts import lines, loss_curve, rank_error, running_time
from lora_edu.classroom.figures.codes import level_use, settling
from lora_edu.classroom.figures.copies import original_and_copy
from lora_edu.classroom.figures.costs import break_even, log_log
from lora_edu.classroom.figures.course_map import course_map
from lora_edu.classroom.figures.drift import drift
from lora_edu.classroom.figures.ellipse import circle_to_ellipse
from lora_edu.classroom.figures.kept import kept_by_size
from lora_edu.classroom.figures.language import next_token
from lora_edu.classroom.figures.learning import form_and_copied
from lora_edu.classroom.figures.levels import equal_shares, error_by_bits
from lora_edu.classroom.figures.matrices import image, product
from lora_edu.classroom.figures.memory import stacked
from lora_edu.classroom.figures.moments import held_over_time
from lora_edu.classroom.figures.numbered import numbered_levels
from lora_edu.classroom.figures.overlaps import collisions
from lora_edu.classroom.figures.palette import COLORS, HATCHES, LINE_STYLES, MARKERS, ROLES
from lora_edu.classroom.figures.peaks import memory_at_peak
from lora_edu.classroom.figures.quick_png import quick_png
from lora_edu.classroom.figures.rank_panels import rank_panels
from lora_edu.classroom.figures.ranks import energy_by_rank, share_by_rank
from lora_edu.classroom.figures.rates import score_by_rate, score_by_step
from lora_edu.classroom.figures.roofline import roofline
from lora_edu.classroom.figures.rounding import nearby_levels
from lora_edu.classroom.figures.scale import update_to_scale
from lora_edu.classroom.figures.schematic import (
    adapter_files,
    column_times_row,
    forward_backward,
    lora_layer,
    one_base,
    one_job,
    routes,
    scored_example,
    scored_rows,
    shaded_tokens,
    stored_bytes,
    transformer_block,
    weight_life,
    woven_rows,
)
from lora_edu.classroom.figures.shaded import shaded_table
from lora_edu.classroom.figures.sizes import update_sizes
from lora_edu.classroom.figures.spectra import error_by_rank, spectrum
from lora_edu.classroom.figures.terms import copy_and_rest, terms
from lora_edu.classroom.figures.trade_off import trade_off
from lora_edu.classroom.figures.two_scales import two_scales
from lora_edu.classroom.figures.update_map import update_map
from lora_edu.classroom.figures.when_faster import roof_by_tokens, speed_by_tokens
