// The tab Energy: fetches what the server has drawn, and shows it again every few seconds, with what the reader has chosen.
"use strict";

const PAUSE_MS = 10000;

export async function render() {
  const head = document.head;
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "./tab.css" });
  const loaded = new Promise((resolve) => {
    link.onload = link.onerror = resolve;
  });
  head.append(link);
  document.documentElement.lang = "en";
  document.title = "Energy";
  document.body.className = "mle";
  followTheme();
  await loaded;

  let query = "";
  let shown = null;
  let asked = 0;
  let waiting = 0;

  async function show() {
    const number = ++asked;
    let html;
    waiting += 1;
    try {
      const answer = await fetch(`./view?${query}`);
      html = (await answer.json()).html;
    } catch {
      return; // TensorBoard is busy or has ended; what is shown stays
    } finally {
      waiting -= 1;
    }
    if (number !== asked || html === shown) {
      return; // a later question is on its way, or nothing is new
    }
    shown = html;
    const focused = document.activeElement;
    const id = focused && focused.id;
    const range = focused && focused.type === "search" ? [focused.selectionStart, focused.selectionEnd] : null;
    const [left, top] = [window.scrollX, window.scrollY];
    const table = document.getElementById("runs");
    const [across, down] = table ? [table.scrollLeft, table.scrollTop] : [0, 0];
    const open = new Set([...document.querySelectorAll("details[open]")].map((part) => part.id));
    document.body.innerHTML = html;
    for (const part of document.querySelectorAll("details")) {
      part.open = open.has(part.id);
    }
    document.getElementById("runs")?.scrollTo(across, down);
    const again = id ? document.getElementById(id) : null;
    if (again) {
      again.focus({ preventScroll: true });
      if (range) {
        again.setSelectionRange(...range);
      }
    }
    window.scrollTo(left, top);
  }

  function ask(button) {
    const form = document.querySelector("form");
    const data = new URLSearchParams(new FormData(form));
    if (button && button.name) {
      data.set(button.name, button.value);
    }
    query = data.toString();
    return show();
  }

  let typing = null;
  document.body.addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(
      () => {
        typing = null;
        ask();
      },
      event.target.type === "search" ? 250 : 0,
    );
  });
  document.body.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(event.submitter);
  });
  await show();
  setInterval(() => {
    if (!document.hidden && typing === null && waiting === 0) {
      show();
    }
  }, PAUSE_MS);
}

function followTheme() {
  const outside = window.parent.document.body; // TensorBoard's own page, from the same server
  const follow = () => {
    document.documentElement.dataset.theme = outside.classList.contains("dark-mode") ? "dark" : "light";
  };
  follow();
  new MutationObserver(follow).observe(outside, { attributes: true, attributeFilter: ["class"] });
}
