// Two names that the theme and myst-nb give for screen readers differ from what is written there.
for (const named of document.querySelectorAll("button.search-button-field, details.hide > summary"))
  named.removeAttribute("aria-label");
