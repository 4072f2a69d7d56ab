"use strict";
// Works without a network: sorts tables, compares runs with a baseline, copies texts, and saves the record.

const say = (text) => {
  document.querySelector(".said").textContent = text;
};

function sortBy(heading) {
  const table = heading.closest("table");
  const place = [...heading.parentNode.children].indexOf(heading);
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const compare = (one, other) => {
    const [a, b] = [one, other].map((row) => row.children[place].dataset.value);
    if (a === undefined || b === undefined) {
      return (a === undefined) - (b === undefined); // an unknown value is last in both directions
    }
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return descending ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
  for (const other of heading.parentNode.children) {
    other.removeAttribute("aria-sort");
  }
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  say(`Sorted by ${heading.textContent}, ${descending ? "descending" : "ascending"}.`);
}

function compareWith(baseline, differences) {
  for (const cell of document.querySelectorAll("[data-run]")) {
    const found = differences[baseline][cell.dataset.run];
    cell.textContent = found.text;
    cell.className = found.kind;
    if (found.value !== null) {
      cell.closest("td").dataset.value = found.value;
    } else {
      delete cell.closest("td").dataset.value;
    }
  }
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copies).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // where a browser refuses the clipboard to files
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  say("Copied.");
}

function download(button) {
  const text = document.getElementById(button.dataset.from).textContent;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "energy.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", () => copy(button));
}
for (const button of document.querySelectorAll("button.download")) {
  button.addEventListener("click", () => download(button));
}
const differences = document.getElementById("differences");
if (differences !== null) {
  const found = JSON.parse(differences.textContent);
  for (const choice of document.querySelectorAll("input[name=baseline]")) {
    choice.addEventListener("change", () => compareWith(choice.value, found));
  }
}
