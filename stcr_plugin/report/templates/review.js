"use strict";
// The page of `stcr annotate review`: asks for one row at a time and the next one ahead. Everything that is shown comes
// from the server, which escapes it.
const $ = (id) => document.getElementById(id);
let list = [], at = 0, working = 0, last = Promise.resolve();
const ahead = new Map();

async function call(path, body) {
  const options = body === undefined ? {} :
    {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer, so nothing was saved. Start the command again.");
  }
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return text;
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "failed" : "";
}

// One thing at a time: a key that is pressed before the next row is shown does not decide about that row.
function alone(work, wait = false) {
  if (working && !wait) return;
  working += 1;
  last = last.then(work).catch((error) => say(error.message, true)).finally(() => { working -= 1; });
}

function part(row) {
  if (!ahead.has(row)) {
    const found = call(`row?n=${row}`);
    found.catch(() => ahead.delete(row));
    ahead.set(row, found);
  }
  return ahead.get(row);
}

async function show() {
  $("place").textContent = list.length ? `${at + 1} of ${list.length}` : "";
  if (!list.length) {
    $("card").innerHTML = '<p class="lead">There are no such rows.</p>';
    return editing(false);
  }
  $("card").innerHTML = await part(list[at]);
  editing(false);
  ahead.clear();
  if (at + 1 < list.length) part(list[at + 1]);
}

async function load() {
  const name = encodeURIComponent($("list").value), which = $("which").value;
  list = JSON.parse(await call(`list?name=${name}&which=${which}`));
  at = 0;
  ahead.clear();
  await show();
}

async function go(step) {
  if (at + step < 0 || at + step >= list.length) return say(step > 0 ? "This is the last row." : "This is the first row.");
  at += step;
  say("");
  await show();
  window.scrollTo(0, 0);
}

function editing(on) {
  document.querySelector(".deciding").hidden = on;
  document.querySelector(".editing").hidden = !on;
  const texts = [...document.querySelectorAll("#card .edit")];
  for (const text of document.querySelectorAll("#card .text")) text.hidden = on;
  for (const text of texts) text.hidden = !on;
  if (on && texts.length) {
    say("");
    texts[0].focus();
  } else {
    for (const text of texts) text.value = text.defaultValue;
    $("card").focus({preventScroll: true});
  }
}

const isEditing = () => !document.querySelector(".editing").hidden;

async function decide(review, texts) {
  if (!list.length) return;
  const row = list[at], note = document.querySelector("#card [name=note]");
  const kept = review === undefined ? $("card").firstElementChild.dataset.review : review;
  const body = {position: row, review: kept, note: note.value, texts: texts ?? null};
  $("figures").innerHTML = await call("decide", body);
  ahead.delete(row);
  const said = {accept: "Accepted", reject: "Rejected", "": "Note saved:"}[kept];
  if (review === undefined || at + 1 >= list.length) {
    await show();
    say(`${said} row ${row + 1}.${review === undefined ? "" : " That was the last row of this list."}`);
  } else {
    await go(1);
    say(`${said} row ${row + 1}.`);
  }
}

function save() {
  const texts = {};
  for (const text of document.querySelectorAll("#card .edit")) texts[text.name] = text.value;
  return decide("accept", [texts.earlier_text, texts.later_text]);
}

async function undo() {
  const {row, figures} = JSON.parse(await call("undo", {}));
  if (row === null) return say("There is nothing to undo.");
  $("figures").innerHTML = figures;
  ahead.clear();
  if (list.includes(row)) at = list.indexOf(row);
  await show();
  say(`Row ${row + 1} is as before the last decision.`);
}

function toggle() {
  $("findings").checked = !document.body.classList.toggle("hide");
}

const actions = {
  accept: () => decide("accept"), reject: () => decide("reject"), edit: () => list.length && editing(true),
  save, cancel: () => editing(false), previous: () => go(-1), next: () => go(1), undo,
};
const keys = {
  a: "accept", r: "reject", e: "edit", k: "previous", ArrowLeft: "previous", j: "next", ArrowRight: "next", u: "undo",
};

for (const [id, work] of Object.entries(actions)) $(id).addEventListener("click", () => alone(work));
$("findings").addEventListener("change", toggle);
for (const id of ["list", "which"]) $(id).addEventListener("change", () => { say(""); alone(load, true); });
document.addEventListener("keydown", (event) => {
  if (isEditing()) {
    if (event.key === "Escape") alone(actions.cancel);
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) alone(save);
    return;
  }
  if (event.target.matches("input:not([type=checkbox]), select, textarea")) {
    if (event.key === "Enter" && event.target.name === "note") alone(() => decide());
    if (event.key === "Escape") $("card").focus();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "h") toggle();
  else if (keys[event.key]) {
    event.preventDefault();
    if (event.repeat && !["previous", "next"].includes(keys[event.key])) return;  // one decision per press
    alone(actions[keys[event.key]]);
  }
});
alone(load);
