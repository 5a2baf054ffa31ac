"use strict";
// Filter the laws by status. Without this script the page shows all of them, which is right as well.
for (const button of document.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll(".filters button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    const wanted = button.dataset.status;
    for (const part of document.querySelectorAll("section.part")) {
      let shown = 0;
      for (const law of part.querySelectorAll(".law")) {
        law.hidden = wanted !== "" && !law.classList.contains(wanted);
        shown += law.hidden ? 0 : 1;
      }
      part.hidden = shown === 0;
    }
  });
}
