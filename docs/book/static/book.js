// Two names that the theme and myst-nb give for screen readers differ from what is written there.
for (const named of document.querySelectorAll("button.search-button-field, details.hide > summary"))
  if (named.matches("summary")) named.removeAttribute("aria-label");
  else named.setAttribute("aria-label", named.textContent.replace(/\s+/g, " ").trim()); // it hides its text on a phone

// What scrolls by itself can be reached by keyboard.
function reach() {
  for (const table of document.querySelectorAll(".bd-article table"))
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
}
reach();
addEventListener("resize", reach);
