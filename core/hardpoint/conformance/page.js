"use strict";
// Filter the laws by status and by text. Without this script the page shows all of them, which is right as well.
const buttons = document.querySelectorAll(".filters button");
const search = document.querySelector(".filters input");
let wanted = "";

function show() {
  const text = search.value.trim().toLowerCase();
  let all = 0;
  for (const part of document.querySelectorAll("section.part")) {
    let shown = 0;
    for (const law of part.querySelectorAll(".law")) {
      const right = wanted === "" || law.classList.contains(wanted);
      law.hidden = !right || !law.textContent.toLowerCase().includes(text);
      shown += law.hidden ? 0 : 1;
    }
    part.hidden = shown === 0;
    all += shown;
  }
  document.querySelector(".nothing").hidden = all > 0;
}

function choose(status) {
  wanted = status;
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(button.dataset.status === status));
  }
  show();
}

for (const button of buttons) {
  button.addEventListener("click", () => choose(button.dataset.status));
}
search.addEventListener("input", show);
// A link to a law must not lead to one that is filtered away.
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => {
    search.value = "";
    choose("");
  });
}
