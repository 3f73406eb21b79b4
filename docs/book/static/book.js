// Two names that the theme and myst-nb give for screen readers differ from what is written there.
for (const named of document.querySelectorAll("button.search-button-field, details.hide > summary"))
  if (named.matches("summary")) named.removeAttribute("aria-label");
  else named.setAttribute("aria-label", named.textContent.replace(/\s+/g, " ").trim()); // it hides its text on a phone

// What scrolls by itself can be reached by keyboard. (The theme asks code again only 300 ms after a resize.)
function reach() {
  for (const part of document.querySelectorAll(".bd-article table, .bd-article pre"))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
}
reach();
addEventListener("resize", reach);
document.fonts.ready.then(reach);
