"""The map of the course: every notebook, what it needs by its own words, and no text on another."""

import re

from lora_edu.classroom import figures
from lora_edu.classroom.figures.course_map import ARROWS, STOPS
from tools import build_notebooks

SOURCES = {
    source.stem.split("_")[0]: source for source in build_notebooks.selected_sources([], build_notebooks.ROOT)
}


def before(number):
    """Every notebook from which arrows lead to this one."""
    direct = {start for start, end in ARROWS if end == number}
    return direct | {earlier for start in direct for earlier in before(start)}


def test_it_holds_every_notebook_and_all_follow_from_the_first():
    assert list(STOPS) == list(SOURCES)
    assert all("00" in before(number) for number in STOPS if number != "00")
    assert all(start < end for start, end in ARROWS)


def test_what_a_notebook_says_it_needs_leads_to_it():
    needed = {}
    for number, source in SOURCES.items():
        opening = build_notebooks.read_source(source)[0].source
        paragraph = re.search(r"\*\*You need\*\*.*?(?=\n\n|\*\*Time)", opening, re.S)[0]
        needed[number] = {named for named in re.findall(r"\b\d\d[a-z]?\b", paragraph) if named in STOPS}
    assert sum(map(len, needed.values())) > 10
    assert {
        number: names - before(number) for number, names in needed.items() if names - before(number)
    } == {}


def test_no_two_texts_meet_and_the_sentence_names_every_arrow():
    picture = figures.course_map()
    figures.to_png(picture)
    assert figures.collisions(picture) == []
    for start, end in ARROWS:
        [told] = re.findall(rf"\b{start} leads to ([^.]+)\.", picture.alt)
        assert end in told


def test_boxes_stand_apart():
    places = [(stop.x, stop.y) for stop in STOPS.values()]
    assert len(set(places)) == len(places)
    assert all(abs(x - a) >= 1 or abs(y - b) >= 1 for x, y in places for a, b in places if (x, y) != (a, b))
