"use strict";

/** An element with attributes, and children that are elements or text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

/** Show a chosen file in its field. */
function preview(drop, kind, file) {
  drop.querySelectorAll("img, video").forEach(shown => { URL.revokeObjectURL(shown.src); shown.remove(); });
  drop.querySelector(".name").textContent = file ? file.name : `Choose a ${kind}, or drop it here`;
  if (!file) return;
  const shown = kind === "picture" ? make("img", { alt: file.name }) : make("video", { controls: true, muted: true });
  shown.onerror = () => shown.remove(); // what browsers do not show may still be answered
  shown.src = URL.createObjectURL(file);
  drop.append(shown);
}

function fileField(field) {
  const input = make("input", { type: "file", name: field.name, accept: field.kind === "picture" ? "image/*" : "video/*" });
  const drop = make("label", { class: "drop" }, make("span", {}, field.label), make("span", { class: "name" }), input);
  preview(drop, field.kind, null);
  input.addEventListener("change", () => preview(drop, field.kind, input.files[0]));
  drop.addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    const first = new DataTransfer();
    first.items.add(event.dataTransfer.files[0]);
    input.files = first.files;
    preview(drop, field.kind, input.files[0]);
  });
  return drop;
}

function plainField(field) {
  if (field.kind === "check") {
    const box = make("input", { type: "checkbox", name: field.name, checked: field.value });
    return make("label", { class: "check" }, box, field.label);
  }
  let input;
  if (field.kind === "choice") {
    input = make("select", { name: field.name }, ...field.choices.map(choice => make("option", {}, choice)));
  } else if (field.kind === "number") {
    const range = { min: field.least, max: field.most, step: field.step };
    const texts = Object.fromEntries(Object.entries(range).map(([key, value]) => [key, String(value)]));
    input = make("input", { type: "number", name: field.name, required: true, ...texts });
  } else {
    input = make("textarea", { name: field.name, rows: "2", required: true, maxlength: String(field.most) });
  }
  input.value = field.value;
  return make("label", {}, field.label, input);
}

/** Put an example's values into the form; those that it does not name begin again. */
async function fill(form, tab, values) {
  for (const field of tab.fields) {
    const input = form.elements[field.name];
    const value = field.name in values ? values[field.name] : field.value;
    if (field.kind === "check") input.checked = value;
    else if (field.kind !== "picture" && field.kind !== "video") input.value = value;
    else if (field.name in values) {
      const reply = await fetch(`/samples/${value}`);
      if (!reply.ok) throw new Error(`the sample ${value} cannot be had`);
      const held = new DataTransfer();
      const content = await reply.blob();
      held.items.add(new File([content], value, { type: content.type }));
      input.files = held.files;
      preview(input.closest(".drop"), field.kind, input.files[0]);
    }
  }
}

function fault(error) {
  const hint = error.hint ? make("div", { class: "hint" }, `try: ${error.hint}`) : null;
  return [make("div", { class: "fault", role: "alert" }, make("div", {}, `error: ${error.message}`), hint)];
}

function bars(rows) {
  return make("ul", { class: "bars" }, ...rows.map(row => {
    const filled = make("b");
    filled.style.width = `${100 * row.share}%`;
    const words = make("div", {}, make("span", {}, row.label), make("span", {}, `${(100 * row.share).toFixed(1)}%`));
    return make("li", {}, words, make("i", {}, filled));
  }));
}

function figure(one) {
  const shown = one.kind === "picture"
    ? make("img", { src: one.source, alt: one.caption })
    : make("video", { src: one.source, controls: true, loop: true, muted: true, autoplay: true, playsInline: true });
  const mark = one.right ? make("span", { class: "right" }, " ✓ the one asked for") : null;
  const whole = make("figure", {}, shown, make("figcaption", {}, one.caption, mark));
  shown.addEventListener("load", () => whole.classList.toggle("wide", shown.naturalWidth > 1.5 * shown.naturalHeight));
  return whole;
}

function compare([before, after]) {
  const stage = make("div", { class: "compare" }, make("img", { src: before, alt: "before" }), make("img", { src: after, alt: "after" }));
  const slider = make("input", { type: "range", min: "0", max: "100", "aria-label": "How much is shown as before" });
  slider.value = 50;
  slider.addEventListener("input", () => stage.style.setProperty("--at", `${slider.value}%`));
  const names = make("div", {}, make("span", {}, "before"), make("span", {}, "after"));
  return make("div", { class: "sliding" }, stage, slider, names);
}

function answered(found) {
  const few = found.figures.length < 4 ? " few" : "";
  const note = [found.note, `${found.seconds.toFixed(1)} s`].filter(text => text).join("; ");
  return [
    make("p", { class: "headline" }, found.headline),
    found.bars.length ? bars(found.bars) : null,
    found.compare.length ? compare(found.compare) : null,
    found.figures.length ? make("div", { class: `figures${few}` }, ...found.figures.map(figure)) : null,
    make("p", { class: "note" }, note),
  ].filter(part => part);
}

async function ask(tab, form) {
  let reply;
  try {
    reply = await fetch(`/ask/${tab.name}`, { method: "POST", body: new FormData(form) });
  } catch {
    return fault({ message: "the server does not answer", hint: "is zoo demo still running?" });
  }
  const found = await reply.json().catch(() => ({ error: { message: `the server says ${reply.status}` } }));
  return found.error ? fault(found.error) : answered(found);
}

function panel(tab) {
  const button = make("button", { class: "ask" }, "Ask");
  const answer = make("section", { class: "answer", "aria-live": "polite" }, make("p", { class: "empty" }, "The answer comes here. Press an example to see one."));
  const files = tab.fields.filter(field => field.kind === "picture" || field.kind === "video");
  const others = tab.fields.filter(field => !files.includes(field));
  const form = make("form", {});
  const submit = async prepare => {
    if (button.disabled) return;
    button.disabled = true;
    answer.classList.add("waiting");
    const start = Date.now();
    const clock = setInterval(() => { button.textContent = `Working, ${Math.round((Date.now() - start) / 1000)} s`; }, 500);
    try {
      await prepare();
      answer.replaceChildren(...await ask(tab, form));
    } catch (error) {
      answer.replaceChildren(...fault({ message: error.message }));
    } finally {
      clearInterval(clock);
      answer.classList.remove("waiting");
      button.disabled = false;
      button.textContent = "Ask";
    }
  };
  const examples = make("fieldset", { class: "examples" }, make("legend", {}, "Examples"), ...tab.examples.map(example => {
    const press = make("button", { type: "button" }, example.title);
    press.addEventListener("click", () => submit(() => fill(form, tab, example.values)));
    return press;
  }));
  form.append(...files.map(fileField), ...others.map(plainField), button, examples);
  form.addEventListener("submit", event => { event.preventDefault(); submit(async () => {}); });
  return make("div", { role: "tabpanel", id: `panel-${tab.name}`, "aria-labelledby": `tab-${tab.name}`, hidden: true },
    make("p", { class: "about" }, tab.about), make("div", { class: "sides" }, form, answer));
}

function choose(name) {
  for (const press of document.querySelectorAll("[role=tab]")) {
    const chosen = press.id === `tab-${name}`;
    press.setAttribute("aria-selected", String(chosen));
    press.tabIndex = chosen ? 0 : -1;
    document.getElementById(press.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen) press.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  history.replaceState(null, "", `#${name}`);
}

/** Arrow keys go from tab to tab, as everywhere. */
function step(event) {
  const all = [...document.querySelectorAll("[role=tab]")];
  const moved = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!moved) return;
  const next = all[(all.indexOf(event.target) + moved + all.length) % all.length];
  choose(next.id.slice(4));
  next.focus();
}

async function start() {
  const found = await (await fetch("/tabs")).json();
  document.getElementById("version").textContent = `zoo ${found.version}`;
  for (const tab of found.tabs) {
    const press = make("button", { role: "tab", id: `tab-${tab.name}`, "aria-controls": `panel-${tab.name}` }, tab.title);
    press.addEventListener("click", () => choose(tab.name));
    document.querySelector("nav").append(press);
    document.querySelector("main").append(panel(tab));
  }
  document.querySelector("nav").addEventListener("keydown", step);
  const wanted = location.hash.slice(1);
  choose(found.tabs.some(tab => tab.name === wanted) ? wanted : found.tabs[0].name);
}

start().catch(() => document.querySelector("main").replaceChildren(
  ...fault({ message: "the server does not answer", hint: "is zoo demo still running?" })));
