// search.js - looks through SECTIONS (sections.js: file, page, anchor, heading, text) while the reader
// types. All words must be there; a hit in a heading, and a whole word, counts for more.
"use strict";

const query = document.getElementById("query");
const results = document.getElementById("results");
const article = document.querySelector("article");
const MOST = 30;

function escaped(text) {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
}

// How well a section fits; 0: not at all.
function score([, page, , heading, text], words) {
  let sum = 0;
  const titles = (page + " " + heading).toLowerCase();
  const own = heading.toLowerCase();
  const body = text.toLowerCase();
  for (const word of words) {
    const at = body.indexOf(word);
    if (at < 0 && !titles.includes(word)) return 0;
    if (own === word) sum += 50;
    if (own.includes(word)) sum += 12;
    else if (titles.includes(word)) sum += 5;
    if (at >= 0) {
      const before = at > 0 ? body[at - 1] : " ";
      const after = body[at + word.length] || " ";
      sum += /[a-z0-9_]/.test(before + after) ? 1 : 3;
      sum += Math.min(4, body.split(word).length - 1) / 2;
    }
  }
  return sum;
}

// The place of the first word in a text, with what stands around it.
function excerpt(text, words) {
  const at = Math.max(0, text.toLowerCase().indexOf(words[0]));
  const from = Math.max(0, at - 60);
  const piece = (from > 0 ? "… " : "") + text.slice(from, from + 220);
  const marks = words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  return piece.split(new RegExp(`(${marks})`, "gi")).map((part, i) => // every second one is a word
    i % 2 ? `<mark>${escaped(part)}</mark>` : escaped(part)).join("");
}

function show() {
  const words = query.value.toLowerCase().split(/\s+/).filter((w) => w);
  results.hidden = words.length === 0;
  article.hidden = words.length > 0;
  if (words.length === 0) return;
  const hits = SECTIONS.map((part) => [score(part, words), part]).filter(([s]) => s > 0);
  hits.sort(([a], [b]) => b - a);
  results.innerHTML = hits.slice(0, MOST).map(([, [file, page, anchor, heading, text]]) =>
    `<a href="${file}${anchor && "#" + anchor}"><b>${escaped(heading)}</b>` +
    `<small>${escaped(page)}</small>${excerpt(text, words)}</a>`).join("") ||
    `<p>Nothing has “${escaped(query.value)}” in it.</p>`;
}

query.addEventListener("input", show);
query.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const first = results.querySelector("a");
  if (first) location.href = first.href;
});
results.addEventListener("click", () => { // a hit on this page only moves the view
  query.value = "";
  setTimeout(show);
});
query.value = new URLSearchParams(location.search).get("q") || ""; // index.html?q=words
show();
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== query) {
    event.preventDefault();
    query.focus();
  } else if (event.key === "Escape") {
    query.value = "";
    show();
  }
});
