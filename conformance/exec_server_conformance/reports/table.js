"use strict";
// Filters the sessions by words, and to those that do not pass on every server.
const rows = [...document.querySelectorAll("tr.session")];
const groups = [...document.querySelectorAll("tbody")];
const failing = document.getElementById("failing");
const search = document.getElementById("search");

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    row.hidden =
      (failing.ariaPressed === "true" && !("fails" in row.dataset)) ||
      !words.every((word) => row.dataset.words.includes(word));
  }
  for (const group of groups) {
    group.hidden = !group.querySelector("tr.session:not([hidden])");
  }
}

failing.addEventListener("click", () => {
  failing.ariaPressed = failing.ariaPressed === "true" ? "false" : "true";
  filter();
});
search.addEventListener("input", filter);
