"""Write data/events/train.jsonl and test.jsonl: sentences about an event, and what each of them says.

    python tools/make_events.py              write both files
    python tools/make_events.py --check      exit 1 if a file differs from what would be written
    python tools/make_events.py --baseline   how far regular expressions get on the test file

A sentence is a pattern with its slots filled from word lists; train and test share no list. All randomness
is ``random.Random(seed).random()``, the one method whose sequence Python promises to keep, so that the files
are the same bytes with every version.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TypeVar

FOLDER = Path(__file__).parents[1] / "data" / "events"
T = TypeVar("T")

# A slot is a field ({day}), a field with the words that it needs around it ({on_day}), or a distractor:
# another person, day, time or place, a price, a phone number.
PATTERNS = (
    "{who} is running the {what} {at_where} {on_day} at {time}.",
    "Reminder: {what} with {who}, {day}, {time}, {where}.",
    "{day}, {time}: {what}, {where} ({who})",
    "Don't forget that {who} has {a_what} {at_where} at {time} {on_day}.",
    "Can {who} come to the {what} {at_where} {on_day} at {time}?",
    "Hi {who}, your {what} is booked for {day} at {time} {at_where}.",
    "{on_day} at {time}, {who} will open the {what} {at_where}.",
    "The {what} with {who} takes place {at_where} {on_day}, starting at {time}.",
    "{other} told me that {who} is organising {a_what} {at_where} {on_day} at {time}.",
    "Please note: the {what} {at_where} starts at {time} {on_day}, and {who} is in charge.",
    "We meet {at_where} {on_day} at {time} for the {what} led by {who}.",
    "{who} writes: see you {at_where} {on_day} at {time} for the {what}!",
    "The {what} has moved from {other_day} to {day}; {who} expects us {at_where} at {time}.",
    "Not {other} but {who} is looking after the {what} {at_where} {on_day} at {time}.",
    "Is it true that the {what} with {who} is {on_day} at {time} {at_where}?",
    "Drinks are {price} at the {what} with {who}, {on_day} at {time} {at_where}.",
    "At {time} {on_day} the {what} begins {at_where}; {who} will welcome everybody.",
    "Call {phone} to join {who} for the {what} {at_where} {on_day} at {time}.",
    "I just heard from {who}: the {what} is {on_day} at {time}, and we meet {at_where}.",
    "Are you free {on_day} at {time}? {who} needs help with the {what} {at_where}.",
    "{other} is ill, so {who} will take over the {what} {at_where} {on_day} at {time}.",
    "Good news, the {what} is on: {day}, {time}, {where}, hosted by {who}.",
    "If you want to join the {what}, come to {the_where} {on_day} at {time} and ask for {who}.",
    "The {what} is no longer {at_other_where} but {at_where}, {on_day} at {time}, with {who}.",
    "As agreed, {who} and I meet {on_day} at {time} {at_where} for the {what}.",
    "From the notice board: {what}, {where}, {day} at {time}, contact {who}.",
    "{who}, please be {at_where} {on_day} at {time} for the {what}.",
    "The {what} with {who} starts at {time}, not at {other_time}, {on_day} {at_where}.",
    "Save the date! {who} invites you to {a_what} {on_day} at {time} {at_where}.",
    "Thanks to {who}, the {what} can go ahead {at_where} {on_day} at {time}.",
    "Everyone is welcome at the {what} {on_day}; {who} will be waiting {at_where} at {time}.",
    "{who} has confirmed the {what} for {day} at {time} {at_where}.",
    "Meet {who} {at_where} at {time} {on_day} for the {what}.",
    "My calendar says {where}, {time}, {day}: {what}, {who}.",
    "For the {what} {on_day}, {who} has set out chairs {at_where}; it starts at {time}.",
    "Did {other} tell you? {who} will be {at_where} for the {what} {on_day} at {time}.",
)

# In the test file alone: other orders, subordinate clauses, two distractors in one sentence.
UNSEEN_PATTERNS = (
    "It is {who}, not {other}, who will be there when the {what} begins {at_where}: {time}, {day}.",
    "Although {other} had offered, the {what} {on_day} went to {who}, who starts it {at_where} at {time}.",
    "The place is {the_where}, the time {time}, the day {day}; the one to ask about the {what} is {who}.",
    "What {who} forgot to say is that the {what} is {on_day}, not {on_other_day}, at {time} {at_where}.",
    "Nobody told {who} that the {what} would be {at_where} and not {at_other_where}, {on_day} at {time}.",
    "As {the_other_where} is closed, {who} found a spot {at_where} for the {what}, now {on_day} at {time}.",
    "{other} could only do {other_day}, so {who} does the {what}: {time} {on_day}, {where}.",
    "{the_where} replaces {the_other_where} for the {what}, which {who} now starts {on_day} at {time}.",
    "{other} suggested {other_time}, but {who} would rather begin the {what} {on_day} {at_where} at {time}.",
    "Did you know that {at_where}, at {time} {on_day}, there is {a_what} that {who} took over from {other}?",
    "Bring {price}, since {who} sells drinks {at_where} until the {what} starts there at {time} {on_day}.",
    "Late for the {what} that starts {on_day} at {time}? Find {who} {at_where} or call {phone}.",
)


@dataclass(frozen=True)
class Words:
    """The names, activities and places of one split.

    Activities and places are told apart as "indoors" and "outdoors", so that no cricket match is in a
    boardroom. A place is (the words before it, its name).
    """

    first_names: tuple[str, ...]
    surnames: tuple[str, ...]
    activities: dict[str, tuple[str, ...]]
    places: dict[str, tuple[tuple[str, str], ...]]


def words(text: str) -> tuple[str, ...]:
    """Split a list at its blanks."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Split a list written over several lines at its commas."""
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


def places(names_after: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """List (words before, name) from the lists of names that each preposition stands before."""
    return tuple((before, name) for before, names in names_after.items() for name in phrases(names))


TITLES = words("Dr Ms Mr Professor")
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
HOUR_NAMES = words("twelve one two three four five six seven eight nine ten eleven")
USUAL_HOURS = {
    "breakfast": (8, 9),
    "lunch": (12, 13),
    "afternoon": (13, 15),
    "night|evening|dinner": (18, 20),
}

TRAIN_WORDS = Words(
    first_names=words(
        """
        Abena Adaeze Akua Amara Ayodele Baraka Bongani Chiamaka Chidi Desta Emeka Esi Fatou Femi
        Folake Habiba Imani Jabari Kagiso Kamau Kofi Kwame Lerato Lindiwe Makena Mandla Naledi Ngozi
        Nia Nkechi Obinna Olumide Sadio Sanaa Sekou Tafari Tendai Thabo Themba Uzoma Wanjiru Yaw Zola
        Zuri Aaliyah Aisha Amina Amir Ayse Bahar Bilal Cemal Dalia Darius Deniz Elif Emre Esra Faisal
        Farah Farid Ghada Hadi Hana Huda Idris Jamal Karim Khadija Laila Leyla Mahmoud Mariam Maryam
        Mehmet Murat Nabil Nadia Nasrin Noor Parisa Rami Rania Reza Roya Salma Samir Selin Shirin
        Tarek Yasmin Yusuf Zahra Zainab Ziad Aarav Aditi Ananya Anil Anjali Arjun Asha Bhavna Chandra
        Deepa Devika Dinesh Divya Farhan Gauri Gita Harish Indira Ishaan Jaya Kavya Kiran Lakshmi Lata
        Manish Meera Mohan Nandini Neha Nikhil Padma Pooja Prakash Priya Rahul Rajesh Ravi Rekha Rohan
        Sanjay Sarita Shreya Sunil Swati Tanvi Varun Vijay Vikram Aiko Akira Bao Binh Daichi Dewi Duc
        Emi Haruto Hiro Hoa Jia Jun Kaito Keiko Kenji Lien Ling Linh Mika Naoko Putu Quan Ren Sakura
        Satoshi Siti Sora Takeshi Thuy Tuan Wei Xin Yan Ying Yuki Yuna Yuto Alejandra Alejandro Ana
        Beatriz Bruna Caio Camila Catalina Eduardo Elena Esteban Fabiola Felipe Fernanda Gabriela Gael
        Guillermo Hector Ignacio Ines Javier Joana Joaquin Jorge Julieta Leticia Lorena Lucia Manuel
        Marcela Mateo Mercedes Miguel Natalia Nuno Paloma Pedro Rafael Ramon Renata Ricardo Rodrigo
        Rosario Santiago Sergio Silvia Soledad Teresa Thiago Tomas Valeria Vicente Ximena Agnieszka
        Aleksander Alina Anders Andrea Anja Annika Anton Astrid Aurelie Bastian Birgit Bjorn Boris
        Brigitte Chiara Claire Dagmar Danuta Dmitri Dorota Eero Elsa Emil Erik Eva Fabian Federica
        Filip Franziska Freya Gerda Giulia Goran Greta Gunnar Hanna Heidi Helga Henrik Igor Ilse
        Ingrid Irina Jakub Jana Jonas Josef Julien Karin Katarina Klaus Lars Lea Lena Lorenzo Ludmila
        Luka Magda Malin Marek Marta Matteo Mikael Milena Nadja Niels Nikolai Olga Oskar Paolo Pavel
        Petra Pierre Renate Roman Sandor Sanna Sigrid Simone Sofie Stefan Svetlana Sven Tamas Tatiana
        Tereza Tove Ulrike Vera Viktor Wanda Wolfgang Yvonne Zofia Adam Alan Alice Andrew Aroha
        Barbara Ben Brian Caitlin Charlotte Connor Daniel Declan Diana Edward Ellen Emily Fiona George
        Gwen Hannah Harold Heather Hugo Isaac Jacob James Jenny Joan Joseph Judith Keanu Keith Kieran
        Laura Leah Leilani Liam Linda Louise Lucy Martin Megan Moana Nathan Nicole Nora Oliver Owen
        Patrick Paul Peter Rachel Rhys Robert Ruth Sam Sean Sophie Stella Tane Thomas Victoria Walter
        William Wiremu Abdoulaye Achieng Afia Chinedu Dayo Efua Kwabena Nomsa Sipho Tariro Zanele
        Arash Ceren Dunya Fadi Hakim Jihan Kerem Lamia Mina Nour Sahar Tamer Wafa Amrita Bharat Chitra
        Esha Gopal Hema Jatin Kalpana Leela Mukesh Nisha Omkar Pallavi Rohini Suresh Ayumi Chau
        Daisuke Eri Guo Isamu Kazuo Nanami Phuong Qing Shun Trang Xiu Yoko Adriana Bernardo Cecilia
        Dario Emilio Florencia Graciela Horacio Jimena Lautaro Marisol Norberto Paulina Raul Veronica
        Agneta Benoit Celine Detlef Elke Florian Gaston Hilde Istvan Jelena Kasper Linnea Maarten
        Noemi Ottilie Pekka Ragnhild Saskia Tibor Urszula Wiktor Xavier Zdenka Bridget Colin Doris
        Eleanor Finlay Gareth Imogen Jasper Kirsty Lewis Maeve Orla Quentin Stuart Tilly Una Wendy
        """
    ),
    surnames=words(
        """
        Abebe Adeyemi Aguilar Ahmadi Almeida Andersen Aoki Arslan Bakker Banerjee Barros Becker
        Bergstrom Bianchi Boateng Bouchard Brennan Castillo Chandran Chowdhury Contreras Dahl Delgado
        Demir Diallo Dubois Edwards Eriksson Farouk Fernandez Ferreira Fischer Fujita Ghosh Gonzalez
        Gupta Haddad Hansen Hernandez Hoffmann Horvat Hughes Ito Ivanova Jansen Johansson Jones Kamara
        Kapoor Kaya Keller Khalil Kowalski Kruger Larsen Laurent Lehtonen Lindqvist Mahlangu Martinez
        Mbeki Mensah Meyer Morales Moreau Murphy Nakamura Nguyen Nkosi Novak Nowak Obi Okafor Okoye
        Olsen Ortega Osei Papadopoulos Pereira Petrov Popescu Rahman Ramirez Rao Reddy Rossi Sato
        Schneider Sharma Smirnov Sokolov Suzuki Svensson Takahashi Tanaka Taylor Tran Vasquez Virtanen
        Wagner Walker Weber Williams Wong Yamamoto Yilmaz Zhang Zhou Abrahams Amadi Bauer Beaumont
        Carvalho Chaudhary Costello Dimitrov Dlamini Eklund Fitzgerald Fontaine Gallagher Gruber
        Hashimoto Hussein Iyer Jimenez Kimura Lindgren Lombardi Mazur Mishra Morita Mwangi Navarro
        Nielsen Oduya Ogawa Pinto Quispe Ricci Romero Saleh Salonen Sandberg Sethi Thapa Ueda Varga
        Vogel Yeboah Zielinski
        """
    ),
    activities={
        "indoors": phrases(
            """
            team meeting, board meeting, staff meeting, neighbourhood meeting, supplier meeting,
            shareholder meeting, budget review, sprint review, code review, exam review, project
            kickoff, weekly sync, retrospective, sales briefing, press briefing, security
            briefing, investor briefing, strategy session, council session, orientation session,
            mentoring session, meditation session, quarterly update, planning call, product demo,
            startup pitch, hiring panel, panel discussion, mock trial, debate, residents forum,
            job fair, science fair, craft fair, career talk, author talk, nutrition talk,
            networking lunch, retirement lunch, welcome breakfast, engagement dinner, anniversary
            dinner, potluck dinner, farewell party, birthday party, clothes swap, food drive, toy
            drive, blood drive, kitchen inspection, factory tour, warehouse tour, museum tour,
            escape game, board game night, quiz night, film night, karaoke night, tango evening,
            opera evening, talent show, fashion show, puppet show, magic show, school play, art
            exhibition, photo exhibition, book signing, book club, maths club, robotics club,
            reading group, study group, language exchange, knitting circle, drum circle,
            storytelling hour, poetry reading, tea ceremony, wine tasting, cheese tasting, jazz
            concert, organ concert, piano recital, choir rehearsal, drama rehearsal, dance
            rehearsal, wedding rehearsal, pottery class, yoga class, salsa class, cooking class,
            judo class, karate class, fencing class, ballet class, pilates class, boxing class,
            calligraphy class, Spanish class, French class, Arabic class, Hindi class, guitar
            lesson, first aid course, sewing course, woodwork course, grammar course, design
            workshop, customer workshop, painting workshop, writing workshop, origami workshop,
            translation workshop, bicycle repair workshop, safety training, software training,
            interview training, basketball game, chess tournament, table tennis tournament,
            history lecture, biology lecture, guest lecture, physics seminar, law seminar, thesis
            defence, coding bootcamp, hackathon, podcast recording, spelling contest, compost
            workshop, mosaic workshop, mime workshop, subtitling workshop, glassblowing demo,
            trampoline class, aqua fitness class, Swahili class, Korean class, sushi course, bread
            baking course, sign language course, badminton tournament, bridge tournament, domino
            tournament, haiku contest, crossword contest, bingo afternoon, comedy evening,
            backgammon evening, chocolate tasting, coffee tasting, ukulele jam, harp recital,
            brass band rehearsal, model railway show, cat adoption day, geology lecture, economics
            lecture, chemistry seminar, philosophy seminar, patent seminar, archaeology talk,
            climate forum, recycling forum, housing consultation, tax advice session, proofreading
            session, insurance briefing, merger briefing, payroll review, audit review, logistics
            update, onboarding lunch, release party, usability test, cheerleading practice
            """
        ),
        "outdoors": phrases(
            """
            city tour, bike tour, kayak tour, ghost tour, boat trip, fishing trip, camping trip,
            ski trip, hiking trip, photography walk, bird walk, charity run, treasure hunt, street
            festival, flea market, plant sale, bake sale, garden party, summer picnic, barbecue,
            beach cleanup, tree planting, evacuation drill, fire drill, site visit, stargazing
            night, sailing course, climbing course, gardening course, beekeeping course, rowing
            practice, volleyball practice, hockey practice, football match, rugby match, cricket
            match, marathon training, folk concert, rock concert, open day, astronomy evening,
            swimming lesson, tennis lesson, sheep shearing demo, archery lesson, surf lesson,
            horse riding lesson, drone race, vintage car rally, lantern parade, costume parade,
            kite festival, mushroom walk, lighthouse tour, cave tour, vineyard tour, snorkelling
            tour, canoe trip, gospel concert
            """
        ),
    },
    places={
        "indoors": places(
            {
                "in": """
                    Room 12, Room 101, Room 214, Room 305, Meeting Room 5, Meeting Room B,
                    Lecture Hall 2, Lecture Hall 7, Studio 4, Studio C, Lab 3, Lab 9,
                    Workshop 2, Hangar 6, Building C, Building 17, Classroom 8, Classroom
                    21, Rosewood Hall, Trinity Church, Seminar Room K, Auditorium 6, Barn
                    2
                    """,
                "in the": """
                    Blue Room, Green Room, Garden Room, Oak Room, Tower Room, Music Room,
                    Map Room, Glass Pavilion, Golden Hall, Great Hall, Banquet Hall, Lotus
                    Hall, Winter Garden, town hall, village hall, sports hall, concert
                    hall, city library, school library, main auditorium, small auditorium,
                    staff kitchen, boardroom, ballroom, chapel, crypt, greenhouse,
                    orangery, conservatory, glass atrium, east wing, basement, attic
                    studio, common room, reading room, school gym, old mill, market hall,
                    stables, student lounge, hotel lobby, staff canteen, chemistry lab,
                    computer room, print shop, church hall, Amber Lounge, Mirror Hall,
                    Ivory Salon, planetarium, boathouse, parish barn, wine cellar, puppet
                    theatre, recording studio
                    """,
                "at": """
                    Cafe Luna, Cafe Central, Cafe Havana, Cafe Pepper, Bistro Verde,
                    Bistro Marcel, Hotel Bristol, Hotel Miramar, Hotel Savoy, Cedar House,
                    Willow House, Mason House, Linden School, Parkside School, Northgate
                    College, Kings College, Union Station, Central Station, Gate 14,
                    Dragon Palace, Pizzeria Roma, Taverna Delphi, Stonebridge Manor,
                    Ashford Abbey, City Hall, Cafe Mistral, Cafe Zanzibar, Hotel Aurora,
                    Birch Lodge, Tilbury Station, Brasserie Nord, Kestrel House, Sycamore
                    School, Trattoria Bella
                    """,
                "at the": """
                    Harbour Museum, Railway Museum, Toy Museum, Lakeside Hotel, Grand
                    Hotel, Lotus Tea House, Red Lion, Golden Goose, Blue Parrot, Rialto
                    Theatre, Odeon Cinema, Orpheum Theatre, community centre, youth club,
                    fire station, bus depot, public library, art gallery, bakery, fish
                    market, garden centre, bicycle shop, bookshop, tea room, corner cafe,
                    food court, pizzeria, main entrance, ticket office, front desk,
                    visitor centre, medical centre, conference centre, science campus,
                    primary school, music school, airport lounge, embassy, Silk Museum,
                    Copper Kettle, Marble Arcade, Neptune Hotel, Apollo Theatre, aquarium,
                    observatory, ice rink, dental clinic, bowling alley, potting shed,
                    leisure centre
                    """,
                "on": "Platform 3, Platform 8, Deck 5, Floor 2, Balcony 2",
                "on the": """
                    roof terrace, third floor, ground floor, main stage, small stage, west
                    balcony, river boat, top deck, sun deck
                    """,
            }
        ),
        "outdoors": places(
            {
                "in": """
                    Riverside Park, Meadow Park, Maple Park, Harbour Square, Station
                    Square, Lincoln Square, Maple Court, Elm Grove, Juniper Gardens,
                    Falcon Square, Holland Plaza, Whitby Park
                    """,
                "in the": "courtyard, rose garden, herb garden, castle yard, bamboo garden, walled garden",
                "at": """
                    Willow Farm, Hilltop Farm, Orchard Farm, Pier 9, Camp Redwood, Lake
                    Tamarack, Eagle Rock, Mill Pond, Fort Bravo, Foxglove Farm, Dock 11,
                    Lake Corrib, Camp Osprey
                    """,
                "at the": """
                    sailing club, tennis club, golf club, swimming pool, football stadium,
                    skate park, climbing wall, city zoo, botanical garden, sculpture park,
                    farmers market, nature reserve, picnic area, campsite, boat ramp, old
                    lighthouse, ferry terminal, cider press, bandstand
                    """,
                "on": """
                    Maple Street, Baker Street, Elm Street, Market Street, Juniper Street,
                    Quayside Road
                    """,
                "on the": """
                    north lawn, sports field, football pitch, tennis court, village green,
                    town beach, campus lawn, cricket ground, canal bridge
                    """,
            }
        ),
    },
)

TEST_WORDS = Words(
    first_names=words(
        """
        John Mary Maria Ali Anna Kim Jane Jack Tom Frank Henry Jean Jim Nick Simon Tim Michael Matthew
        Richard Charles Elizabeth Li Luke Alex Anne Dan Greg Ken Louis Marie Victor Phil Stephen
        Virginia Arthur Samuel Carl Fred Chris Donald Ross Neil Ahmed Omar Hassan Chen Mei Carlos
        Diego Juan Luis Pablo Ibrahim Ivan Clara Helen Julia Tara Hong Philip Isabel Minh Maya David
        Sarah
        """
    ),
    surnames=words(
        """
        Smith Johnson Miller Davis Wilson Moore Anderson Jackson Harris Robinson Clark Allen Wright
        Scott Adams Nelson Carter Mitchell Roberts Turner Campbell Evans Collins Stewart Morris Khan
        Lee Wang Liu Yang Huang Cohen Levy Kaplan Jensen Schmidt Klein Cruz Costa Roy Shah Garcia
        Kumar Patel Silva Singh Lopez
        """
    ),
    activities={
        "indoors": phrases(
            """
            music lesson, art class, math class, science class, film club, trade fair, parent
            meeting, project meeting, family dinner, winter concert, school concert, tax workshop,
            health workshop, music workshop, computer workshop, math course, business course,
            data course, reading hour, space talk, climate talk, history talk, card game, bridge
            game, photo session, training session, information session, job interview, radio
            interview, phone interview, news briefing, weather briefing, design review, product
            review, product launch, book launch, energy seminar, business seminar, film festival,
            book sale, art lecture, music lecture, sound check, health check, talk show, radio
            show, blood test
            """
        ),
        "outdoors": phrases(
            """
            river walk, city walk, nature walk, campus tour, castle tour, bus tour, boat race,
            horse race, road race, horse show, dog show, flower show, flower market, field trip,
            train trip, fun run, street party, food festival, dog training, driving lesson
            """
        ),
    },
    places={
        "indoors": places(
            {
                "in": "Cinema 3, Suite 8",
                "in the": """
                    Red Room, White Room, Black Room, Star Room, Silver Room, music
                    studio, film studio, press room, game room, control room, training
                    room, training kitchen, records office, main hall, east hall, main
                    library, law library, research lab, language lab, clock tower, water
                    tower, court house
                    """,
                "at": """
                    North Hall, West Hall, Queen Hall, Lake House, River House, North
                    Station, Park Station
                    """,
                "at the": """
                    Royal Hotel, Park Hotel, Star Hotel, Black Horse, White Swan, Red Fox,
                    Blue Whale, art museum, history museum, science museum, book store,
                    music store, flower shop, law school, language school, power station,
                    radio station, research station, town archive
                    """,
                "on": "Level 6",
                "on the": "second floor, fifth floor, top floor, fourth floor, upper deck",
            }
        ),
        "outdoors": places(
            {
                "in": "Central Park, Forest Park, Ocean Park",
                "in the": "city park, water park, river park, market square, town square",
                "at": "North Gate, West Gate",
                "at the": "animal shelter, rowing club, main pool, summer camp, forest camp, south gate",
                "on": "Queen Street, Church Street, Mill Street, Main Street",
                "on the": """
                    south pier, north beach, west beach, river bank, castle hill, north
                    field, corn field, river bridge
                    """,
            }
        ),
    },
)


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Draw one item."""
    return items[int(rng.random() * len(items))]


def deck(rng: random.Random, items: Sequence[T]) -> Iterator[T]:
    """Deal all items in random order, again and again: each is used about equally often."""
    while True:
        yield from sorted(items, key=lambda _: rng.random())


def people(rng: random.Random, vocabulary: Words) -> Iterator[str]:
    """Deal persons: a first name, a full name, or a title and a surname."""
    for first, last in zip(deck(rng, vocabulary.first_names), deck(rng, vocabulary.surnames), strict=False):
        forms = [first] * 5 + [f"{first} {last}"] * 4 + [f"{pick(rng, TITLES)} {last}"]
        yield pick(rng, forms)


def some_day(rng: random.Random) -> str:
    """Draw a day as people write it: most often a weekday, else a date."""
    weekday, month, number = pick(rng, WEEKDAYS), pick(rng, MONTHS), pick(rng, range(1, 29))
    relative = [f"next {weekday}", f"this {weekday}", "tomorrow"]
    return pick(rng, [weekday] * 5 + relative + [f"{number} {month}"] * 2 + [f"{month} {number}"])


def another_day(rng: random.Random, day: str) -> str:
    """Draw a day that cannot be mistaken for `day`: another date of its month, or another weekday."""
    number = re.search(r"\d+", day)
    if number:
        others = [str(n) for n in range(1, 29) if str(n) != number[0]]
        return day.replace(number[0], pick(rng, others))
    return pick(rng, [weekday for weekday in WEEKDAYS if weekday not in day])


def on(day: str) -> str:
    """Put "on" before a day that takes it."""
    return day if day.startswith(("next", "this", "tomorrow")) else f"on {day}"


def usual_hours(activity: str) -> range:
    """Return the hours at which an activity may start: no dinner is at nine in the morning."""
    for word, (first, last) in USUAL_HOURS.items():
        if re.search(word, activity):
            return range(first, last + 1)
    return range(8, 20)


def clock(hour: int, minute: int, style: str) -> str:
    """Write a time of day as "15:30", as "3:30 pm" or as "half past three"."""
    if style == "24 hours":
        return f"{hour:02d}:{minute:02d}"
    if style == "12 hours":
        if (hour, minute) == (12, 0):
            return "noon"
        minutes = f":{minute:02d}" if minute else ""
        return f"{(hour - 1) % 12 + 1}{minutes} {'am' if hour < 12 else 'pm'}"
    name, next_name = HOUR_NAMES[hour % 12], HOUR_NAMES[(hour + 1) % 12]
    return {
        0: f"{name} o'clock",
        15: f"quarter past {name}",
        30: f"half past {name}",
        45: f"quarter to {next_name}",
    }[minute]


def events(rng: random.Random, patterns: Sequence[str], vocabulary: Words) -> Iterator[dict]:
    """Yield {"sentence": str, "event": {field: value}} without end."""
    names = people(rng, vocabulary)
    kinds = [(kind, what) for kind, activities in vocabulary.activities.items() for what in activities]
    places_of = {kind: deck(rng, names_of_places) for kind, names_of_places in vocabulary.places.items()}
    for pattern, (kind, what) in zip(deck(rng, patterns), deck(rng, kinds), strict=False):
        who = next(names)
        other = next(name for name in names if not set(name.split()) & set(who.split()))
        before, where = next(places_of[kind])
        other_before, other_where = next(place for place in places_of[kind] if place[1] != where)
        day = some_day(rng)
        other_day = another_day(rng, day)
        hour, minute = pick(rng, usual_hours(what)), pick(rng, (0, 0, 0, 15, 30, 30, 45))
        style = pick(rng, ("24 hours", "24 hours", "12 hours", "12 hours", "words"))
        event = {"who": who, "what": what, "where": where, "day": day, "time": clock(hour, minute, style)}
        sentence = pattern.format(
            **event,
            a_what=f"{'an' if what[0] in 'aeiou' else 'a'} {what}",
            at_where=f"{before} {where}",
            the_where=f"{before.partition(' ')[2]} {where}".strip(),
            on_day=on(day),
            other=other,
            other_day=other_day,
            on_other_day=on(other_day),
            other_time=clock(hour + 1, minute, style),
            at_other_where=f"{other_before} {other_where}",
            the_other_where=f"{other_before.partition(' ')[2]} {other_where}".strip(),
            price=f"{pick(rng, range(2, 10))} {pick(rng, ('euros', 'dollars', 'pounds'))}",
            phone=f"555-01{pick(rng, range(100)):02d}",  # numbers kept free for fiction
        )
        sentence = start_upper(sentence)
        # A value that opens the sentence took a capital letter there; it is copied as it stands.
        copied = {field: value if value in sentence else start_upper(value) for field, value in event.items()}
        yield {"sentence": sentence, "event": copied}


def start_upper(text: str) -> str:
    """Make the first letter a capital and leave the others as they are."""
    return text[0].upper() + text[1:]


def take(n: int, items: Iterator[T]) -> list[T]:
    """Return the next n items."""
    return [next(items) for _ in range(n)]


def train_events() -> list[dict]:
    """Return the 1,600 lines of train.jsonl."""
    return take(1600, events(random.Random(1), PATTERNS, TRAIN_WORDS))


def test_events() -> list[dict]:
    """Return the 300 lines of test.jsonl: 200 on the patterns of train, 100 on their own."""
    seen = take(200, events(random.Random(2), PATTERNS, TEST_WORDS))
    unseen = take(100, events(random.Random(3), UNSEEN_PATTERNS, TEST_WORDS))
    lines = [{**line, "unseen_pattern": False} for line in seen]
    lines += [{**line, "unseen_pattern": True} for line in unseen]
    rng = random.Random(4)
    return sorted(lines, key=lambda _: rng.random())


def files() -> dict[Path, bytes]:
    """Return what each file must hold."""
    return {
        FOLDER / f"{split}.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode("ascii")
        for split, lines in (("train", train_events()), ("test", test_events()))
    }


# The baseline: each train pattern as a regular expression, with the closed classes (days, times) spelled out
# and the open ones (activities, places) left to the words around them.
NAME = rf"(?:(?:{'|'.join(TITLES)}) )?[A-Z][\w'-]+(?: [A-Z][\w'-]+)?"
WEEKDAY, MONTH, HOUR = "|".join(WEEKDAYS), "|".join(MONTHS), "|".join(HOUR_NAMES)
DAY = rf"(?i:(?:next |this )?(?:{WEEKDAY})|tomorrow|\d{{1,2}} (?:{MONTH})|(?:{MONTH}) \d{{1,2}})"
TIME = (
    rf"(?:\d{{1,2}}:\d\d(?: [ap]m)?|\d{{1,2}} [ap]m|noon"
    rf"|(?:half past|quarter past|quarter to) (?:{HOUR})|(?:{HOUR}) o'clock)"
)
SLOTS = {
    "who": f"(?P<who>{NAME})",
    "what": "(?P<what>.+?)",
    "a_what": "an? (?P<what>.+?)",
    "where": "(?P<where>.+?)",
    "the_where": "(?:the )?(?P<where>.+?)",
    "at_where": "(?:in|at|on) (?:the )?(?P<where>.+?)",
    "day": f"(?P<day>{DAY})",
    "on_day": f"(?:[Oo]n )?(?P<day>{DAY})",
    "time": f"(?P<time>{TIME})",
    "other": NAME,
    "other_day": DAY,
    "on_other_day": f"(?:on )?{DAY}",
    "other_time": TIME,
    "the_other_where": ".+?",
    "at_other_where": "(?:in|at|on) .+?",
    "price": r"\d+ \w+",
    "phone": r"\d{3}-\d{4}",
}


def regex_of(pattern: str) -> re.Pattern[str]:
    """Turn a pattern into the regular expression that reads its sentences."""
    return re.compile(
        "".join(
            re.escape(literal) + (SLOTS[slot] if slot else "")
            for literal, slot, _, _ in Formatter().parse(pattern)
        )
    )


def regex_event(sentence: str, regexes: Sequence[re.Pattern[str]]) -> dict[str, str] | None:
    """Return the event that the first matching regular expression reads, or None."""
    for regex in regexes:
        match = regex.fullmatch(sentence)
        if match:
            return match.groupdict()
    return None


def regex_exact_match(lines: Sequence[dict]) -> float:
    """Return the fraction of lines whose five values the train patterns' expressions read right."""
    regexes = [regex_of(pattern) for pattern in PATTERNS]
    return sum(regex_event(line["sentence"], regexes) == line["event"] for line in lines) / len(lines)


def print_baseline() -> None:
    """Print the baseline's exact match on both parts of the test set."""
    for name, unseen in (("seen", False), ("unseen", True)):
        lines = [line for line in test_events() if line["unseen_pattern"] is unseen]
        print(f"regular expressions, {name} patterns: {regex_exact_match(lines):.1%} of {len(lines)}")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the event sentences of data/events.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file differs")
    action.add_argument("--baseline", action="store_true", help="print the regular expressions' exact match")
    arguments = parser.parse_args()
    if arguments.baseline:
        print_baseline()
        return 0
    if arguments.check:
        stale = [
            path for path, content in files().items() if not path.exists() or path.read_bytes() != content
        ]
        for path in stale:
            print(f"data/events/{path.name} is not what this script writes: run it", file=sys.stderr)
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, content in files().items():
        path.write_bytes(content)
        print(f"wrote data/events/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
