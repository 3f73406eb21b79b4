// Two names that the theme and myst-nb give for screen readers differ from what is written there.
for (const named of document.querySelectorAll("button.search-button-field, details.hide > summary"))
  named.removeAttribute("aria-label");

// What scrolls by itself can be reached by keyboard.
function reach() {
  for (const table of document.querySelectorAll(".bd-article table"))
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
}
reach();
addEventListener("resize", reach);
