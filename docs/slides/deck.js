// A deck's keys: a slider that is reached keeps the arrow keys, a button Enter and the space bar, until the next slide.
const turns = { PageDown: () => Reveal.next(), PageUp: () => Reveal.prev(), Escape: () => document.activeElement.blur() };
addEventListener("keydown", (event) => {
  const reached = document.activeElement;
  if (reached.matches("input") && event.key in turns) {
    turns[event.key]();
    event.preventDefault();
    event.stopPropagation();
  }
  if (reached.matches("button, a") && ["Enter", " "].includes(event.key)) event.stopPropagation();
}, true);

Reveal.initialize({
  width: 1280, height: 720, margin: 0, center: false, transition: "none", hash: true, slideNumber: "c/t",
  controls: false, scrollActivationWidth: null, plugins: [RevealNotes],
});
Reveal.on("slidechanged", () => document.activeElement.blur());
