"use strict";

const byId = (id) => document.getElementById(id);
const picture = (id, size) => `/api/picture?size=${size}&id=${encodeURIComponent(id)}`;
const count = (number) => number.toLocaleString("en");

let info = null;
let query = null; // {file} or {id}; null: none yet
let request = 0; // answers of earlier requests are ignored
let preview = null; // URL of the uploaded image

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error("The server does not answer: is deephash serve still running?");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(content.error || `The server answered with status ${response.status}.`);
  }
  return content;
}

function element(name, className, text) {
  const created = document.createElement(name);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
}

function say(text, failed) {
  const status = byId("status");
  status.textContent = text;
  status.classList.toggle("failed", Boolean(failed));
}

function parameters() {
  const values = new URLSearchParams({ top: byId("top").value });
  const radius = Number(byId("radius").value);
  if (radius < info.nbit) values.set("radius", radius);
  if (byId("class").value) values.set("label", byId("class").value);
  return values;
}

function showControls() {
  byId("top-value").textContent = byId("top").value;
  const radius = Number(byId("radius").value);
  byId("radius-value").textContent = radius < info.nbit ? `at most ${radius}` : "any";
}

function showPictures(images, labels) {
  const list = byId("pictures");
  list.replaceChildren(...images.map((image) => {
    const item = element("li");
    if (labels.length && image.labels.length) {
      item.className = image.labels.some((label) => labels.includes(label)) ? "same" : "other";
    }
    const find = element("button", "find");
    find.type = "button";
    find.setAttribute("aria-label", `Find images similar to ${image.id}`);
    find.addEventListener("click", () => start({ id: image.id }));
    const shown = element("img");
    shown.loading = "lazy";
    shown.alt = image.labels.join(", ") || image.id;
    shown.src = picture(image.id, "small");
    const parts = [];
    if (image.distance !== undefined) {
      parts.push(image.distance === 1 ? "1 bit" : `${image.distance} bits`);
    }
    if (image.labels.length) parts.push(image.labels.join(", "));
    find.append(shown, element("span", "caption", parts.join(" · ")));
    const name = element("span", "name", image.id);
    name.title = image.id;
    find.append(name);
    const open = element("button", "open", "⤢");
    open.type = "button";
    open.setAttribute("aria-label", `Enlarge ${image.id}`);
    open.addEventListener("click", () => enlarge(image.id));
    item.append(find, open);
    return item;
  }));
}

function enlarge(id) {
  byId("large-picture").src = picture(id, "large");
  byId("large-picture").alt = id;
  byId("large-name").textContent = id;
  byId("large").showModal();
}

function showQuery(results) {
  byId("query").hidden = false;
  const shown = byId("query-picture");
  shown.hidden = false;
  shown.onerror = () => { shown.hidden = true; }; // a format that the browser does not show
  if (query.file) {
    if (preview) URL.revokeObjectURL(preview);
    preview = URL.createObjectURL(query.file);
    shown.src = preview;
  } else {
    shown.src = picture(query.id, "small");
  }
  byId("query-name").textContent = query.file ? query.file.name || "pasted image" : query.id;
  byId("query-labels").textContent = results.labels.join(", ");
  byId("code").textContent = results.code;
  const sizes = results.values && results.values.map(Math.abs);
  const limit = sizes && 0.1 * sizes.reduce((sum, size) => sum + size, 0) / sizes.length;
  let undecided = 0;
  const bits = Array.from(results.bits, (bit, k) => {
    const cell = element("i", bit === "1" ? "one" : "");
    cell.title = `bit ${k}: ${bit}`;
    if (results.values) {
      cell.title += `, value ${results.values[k]}`;
      if (sizes[k] < limit) {
        cell.classList.add("near");
        undecided += 1;
      }
    }
    return cell;
  });
  byId("bits").replaceChildren(...bits);
  byId("bits").setAttribute("aria-label", `code ${results.bits}`);
  const close = `${undecided} of them near the threshold (framed)`;
  byId("bits-text").textContent = `${results.bits.length} bits${undecided ? `, ${close}` : ""}`;
}

function describe(results) {
  const times = [`searched ${count(results.searched)} images in ${results.search_ms.toFixed(1)} ms`];
  if (results.encode_ms) times.unshift(`encoded in ${results.encode_ms.toFixed(0)} ms`);
  if (results.engine !== "exact") times.push(`by ${results.engine}`);
  say(times.join(", "));
  const found = results.results;
  const radius = parameters().get("radius");
  if (!found.length) {
    byId("more").textContent = radius === null ? "No image."
      : `No image within distance ${radius}. Move the slider to the right for more distant ones.`;
  } else if (results.more) {
    byId("more").textContent = radius === null
      ? `${count(results.more)} more at distance ${found[found.length - 1].distance}.`
      : `${count(results.more)} more within distance ${radius}.`;
  } else {
    byId("more").textContent = "";
  }
}

async function run() {
  const current = ++request;
  showControls();
  say(query && query.file ? "encoding…" : "searching…");
  try {
    if (!query) {
      const images = await call(`/api/images?${parameters()}`);
      if (current !== request) return;
      byId("heading").textContent = "Some of the images";
      byId("query").hidden = true;
      byId("more").textContent = "";
      showPictures(images, []);
      say("choose one to find similar images");
      return;
    }
    const values = parameters();
    const results = query.file
      ? await call(`/api/search?${values}`, { method: "POST", body: query.file })
      : await call(`/api/similar?id=${encodeURIComponent(query.id)}&${values}`);
    if (current !== request) return;
    byId("heading").textContent = "Similar images";
    showQuery(results);
    showPictures(results.results, results.labels);
    describe(results);
  } catch (error) {
    if (current === request) say(error.message, true);
  }
}

function start(next) {
  if (next.file && next.file.size > info.max_bytes) {
    say(`The image is larger than ${info.max_bytes / 1e6} MB.`, true);
    return;
  }
  query = next;
  const hash = next.id === undefined ? "" : `#${encodeURIComponent(next.id)}`;
  if (window.location.hash !== hash) history.pushState(null, "", hash || "/");
  window.scrollTo({ top: 0 });
  run();
}

function fromAddress() {
  try {
    const id = decodeURIComponent(window.location.hash.slice(1));
    query = id ? { id } : null;
  } catch (error) {
    query = null;
  }
  run();
}

function acceptFiles(list) {
  const file = Array.from(list || [])[0];
  if (file) start({ file });
}

async function open() {
  try {
    info = await call("/api/info");
  } catch (error) {
    say(error.message, true);
    return;
  }
  document.title = `${info.name}: image search`;
  byId("title").textContent = `Similar images in ${info.name}`;
  const chips = {
    images: count(info.images), bits: info.nbit, method: info.method, "trained on": info.dataset,
    encoder: info.encoder.slice(0, 12),
  };
  byId("chips").replaceChildren(...Object.entries(chips).filter(([, value]) => value !== null)
    .map(([name, value]) => {
      const chip = element("li");
      chip.append(element("span", "", `${name} `), String(value));
      return chip;
    }));
  byId("radius").max = info.nbit;
  byId("radius").value = info.nbit;
  byId("top").max = Math.min(100, info.most_results);
  byId("class-control").hidden = !info.classes.length;
  byId("class").append(...info.classes.map((name) => new Option(name, name)));
  let waiting = null;
  byId("controls").addEventListener("input", () => {
    showControls();
    clearTimeout(waiting);
    waiting = setTimeout(run, 150);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  const input = byId("file");
  input.addEventListener("change", () => {
    acceptFiles(input.files);
    input.value = ""; // the same file may be chosen again
  });
  const drop = byId("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    acceptFiles(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => acceptFiles(event.clipboardData.files));
  window.addEventListener("popstate", fromAddress);
  fromAddress();
}

open();
