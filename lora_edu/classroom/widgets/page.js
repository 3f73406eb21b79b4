// Sliders and predictions of a page on which no Python runs. Without this script the page can still be read.
function enliven() {
  for (const figure of document.querySelectorAll("figure.lora-edu-film")) {
    const { labels, frames, address } = JSON.parse(figure.querySelector("script").textContent);
    const picture = figure.querySelector("img"), caption = figure.querySelector("figcaption");
    const sliders = [...figure.querySelectorAll("input")], shown = figure.querySelectorAll("output");
    const frameAt = (places) => frames[places.reduce((index, place, k) => index * labels[k].length + place, 0)];
    const show = () => {
      const places = sliders.map((slider) => Number(slider.value));
      sliders.forEach((slider, k) => {
        shown[k].value = labels[k][places[k]];
        slider.setAttribute("aria-valuetext", labels[k][places[k]]);
        for (const place of [places[k] - 1, places[k] + 1]) // the neighbours, before they are asked for
          if (labels[k][place] !== undefined)
            new Image().src = `${address}/${frameAt(places.map((other, j) => (j === k ? place : other)))[0]}`;
      });
      const [name, text] = frameAt(places);
      picture.src = `${address}/${name}`;
      picture.alt = caption.textContent = text;
    };
    sliders.forEach((slider, k) => {
      slider.disabled = false;
      slider.addEventListener("input", show);
      if (labels[k].length < 3 || labels[k].some((label) => isNaN(label))) return; // words have no order to run through
      const play = document.createElement("button");
      let timer = 0;
      const stop = () => { clearInterval(timer); timer = 0; play.textContent = "▶ play"; caption.ariaLive = "polite"; };
      const step = () => {
        slider.value = (Number(slider.value) + 1) % labels[k].length;
        show();
        if (Number(slider.value) === labels[k].length - 1) stop();
      };
      play.type = "button";
      play.addEventListener("click", () => {
        if (timer) return stop();
        caption.ariaLive = "off"; // a screen reader could not keep up
        play.textContent = "■ stop";
        timer = setInterval(step, 700);
        step();
      });
      slider.closest("div").append(play);
      stop();
    });
    show();
  }
  for (const asked of document.querySelectorAll(".lora-edu-predict")) {
    const folded = asked.querySelector("details"), verdict = document.createElement("p");
    const answer = folded.querySelector("b").innerHTML, why = folded.querySelector("span")?.innerHTML ?? "";
    const buttons = [...asked.querySelectorAll("li")].map((item) => {
      const button = document.createElement("button");
      button.type = "button";
      button.innerHTML = item.innerHTML;
      item.replaceChildren(button);
      return button;
    });
    verdict.setAttribute("role", "status");
    folded.replaceWith(verdict);
    for (const chosen of buttons)
      chosen.addEventListener("click", () => {
        for (const button of buttons) {
          button.disabled = true;
          button.classList.toggle("right", button.innerHTML === answer);
        }
        chosen.classList.add("chosen");
        const isRight = chosen.innerHTML === answer;
        verdict.innerHTML = `${isRight ? "Right." : `You said: ${chosen.innerHTML}. The answer: ${answer}.`} ${why}`;
      });
  }
}
if (document.readyState === "loading") addEventListener("DOMContentLoaded", enliven);
else enliven();
