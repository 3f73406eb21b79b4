// A tour: one step at a time, and the sliders go where it says; where it asks, after the answer.
for (const tour of document.querySelectorAll(".lora-edu-tour")) {
  const films = [...tour.querySelectorAll("figure")], list = tour.querySelector("ol"), steps = [...list.children];
  if (!films.length) continue;
  const move = (step) => {
    const film = films[step.dataset.film], sliders = [...film.querySelectorAll("input")];
    const places = JSON.parse(step.dataset.places);
    for (const other of films) other.hidden = other !== film;
    sliders.forEach((slider, k) => {
      slider.closest("div").classList.toggle("moved", at > 0 && Number(slider.value) !== places[k]);
      slider.value = places[k];
    });
    sliders[0].dispatchEvent(new Event("input"));
  };
  const [back, next] = ["Back", "Next"].map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    return button;
  });
  const where = document.createElement("span"), bar = document.createElement("div");
  let at = 0;
  const show = (to) => {
    at = to;
    steps.forEach((step, k) => { step.hidden = k !== at; });
    back.disabled = at === 0;
    next.disabled = at === steps.length - 1;
    where.textContent = `Step ${at + 1} of ${steps.length}`;
    const choices = [...steps[at].querySelectorAll("button")];
    const known = choices.every((choice) => choice.disabled); // nothing is asked, or it was answered
    move(steps[known ? at : at - 1]);
  };
  for (const step of steps)
    for (const choice of step.querySelectorAll("button")) choice.addEventListener("click", () => move(step));
  back.addEventListener("click", () => show(at - 1));
  next.addEventListener("click", () => show(at + 1));
  bar.className = "bar";
  bar.append(back, where, next);
  list.ariaLive = "polite";
  list.before(bar);
  tour.classList.add("live");
  show(0);
}
