"use strict";
// Filters the plays by outcome and by words, and unfolds the one that the address names.
const plays = [...document.querySelectorAll(".play")];
const sections = [...document.querySelectorAll("section")];
const buttons = [...document.querySelectorAll("button[data-outcome]")];
const search = document.getElementById("search");
const nothing = document.getElementById("nothing");

function filter() {
  const chosen = new Set(
    buttons.filter((one) => one.ariaPressed === "true").map((one) => one.dataset.outcome),
  );
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const play of plays) {
    play.hidden =
      (chosen.size > 0 && !chosen.has(play.dataset.outcome)) ||
      !words.every((word) => play.dataset.words.includes(word));
  }
  for (const section of sections) {
    section.hidden = !section.querySelector(".play:not([hidden])");
  }
  nothing.hidden = sections.some((section) => !section.hidden);
}

function unfold() {
  const play = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (play) {
    play.open = true;
    play.scrollIntoView();
  }
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    button.ariaPressed = button.ariaPressed === "true" ? "false" : "true";
    filter();
  });
}
search.addEventListener("input", filter);
addEventListener("hashchange", unfold);
unfold();
