"""The course in another language: texts out to .po files, translated notebooks back (``python -m tools.translate``).

    extract LANG [NN ...]    write or refresh translations/LANG/NN.po; what was translated stays
    status  [LANG]           how much is translated
    build   LANG [NN ...]    notebooks/LANG/ from the .po files, executed, with the solutions; and what the package
                             looks up while they run, lora_edu/classroom/languages/LANG.json

`texts` collects what there is to translate, `catalogs` reads and writes .po files, `guard` refuses a translation that
lost something, `products` builds.

Each entry has a stable context (msgctxt), which says what the text is::

    04-1a2b3c4d               a text cell of notebook 04, by its id in the .ipynb; a hint without its fold
    prediction 04.1 choice    question, choice or why of a prediction
    exercise 04.1 hint        what `check` says to a known wrong answer (or a law that it states)
    label                     titles and names in figures, sliders and tables
    say                       sentences of the package
    page                      what the builder writes: "Open in Colab", "{total} minutes"

NN.po holds what notebook NN says, package.po what all notebooks share. A missing or fuzzy entry stays English.
"""
