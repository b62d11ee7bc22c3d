// The dashboard: asks the API for jobs, shows them, sends new ones. Text goes into the page as text only.
"use strict";

const POLL_MS = 1500;
const ENDED = new Set(["succeeded", "failed", "canceled"]);
const $ = (id) => document.getElementById(id);
const items = new Map(); // job id -> its list item
const downloads = new Map(); // job id -> its artifacts, which never change
const results = new Map(); // job id -> its result in one line
let shown = 20;

async function api(path, options) {
  const response = await call(path, options);
  const body = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(body.detail || response.statusText);
  return body;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${count.toFixed(unit && count < 100 ? 1 : 0)} ${units[unit]}`;
}

function news(job) {
  if (job.error) return job.error.detail;
  if (job.status === "succeeded") return results.get(job.id) || "";
  if (job.status !== "running") return "";
  const { step, steps, eta_seconds: eta } = job.progress;
  const parts = [job.cancel_requested ? "canceling" : job.phase || "starting"];
  if (steps) parts.push(`${step} of ${steps}`);
  if (eta !== null) parts.push(`about ${Math.ceil(eta)} s left in this phase`);
  for (const [name, value] of Object.entries(job.metrics)) {
    if (typeof value === "number") parts.push(`${name} ${value.toPrecision(3)}`);
  }
  return parts.join(" · ");
}

function result(report) {
  const found = report.accuracy;
  const size = `${bytes(report.artifact.bytes)}, float32 ${bytes(report.artifact.float32_bytes)}`;
  if (!found) return size;
  return `top-1 ${found.onnxruntime.top1.toFixed(2)} % in ONNX Runtime, float32 ${found.float32.top1.toFixed(2)} %; ${size}`;
}

function link(file) {
  const anchor = document.createElement("a");
  anchor.href = file.href;
  anchor.textContent = `${file.name} (${bytes(file.bytes)})`;
  anchor.addEventListener("click", (event) => {
    if (!storedKey()) return; // the browser's own download, which can go on where it broke off
    event.preventDefault();
    save(file.href, file.name).catch((error) => say(error.message));
  });
  return anchor;
}

async function showLinks(job, item) {
  if (job.status !== "succeeded" || downloads.has(job.id)) return;
  downloads.set(job.id, []);
  try {
    const page = await api(job.links.artifacts);
    item.querySelector(".links").replaceChildren(...page.items.map(link));
    const report = await api(job.links.report);
    results.set(job.id, result(report));
    showCurves(item, report.method.losses);
  } catch {
    downloads.delete(job.id); // the next look tries again
  }
}

function show(job) {
  let item = items.get(job.id);
  if (!item) {
    item = $("job").content.firstElementChild.cloneNode(true);
    item.querySelector(".cancel").addEventListener("click", async (event) => {
      event.target.disabled = true;
      try { await api(`/v1/jobs/${job.id}/cancel`, { method: "POST" }); } catch (error) { say(error.message); }
      await refresh();
    });
    items.set(job.id, item);
  }
  const what = `${job.method.name} w${job.bits.weight}a${job.bits.activation}, ${job.export.profile}`;
  const set = (selector, text) => {
    const element = item.querySelector(selector);
    if (element.textContent !== text) element.textContent = text;
  };
  set(".what", what);
  set(".status", job.status);
  set(".where", `${job.id} · ${new Date(job.created_at).toLocaleString()}`);
  set(".detail", news(job));
  const bar = item.querySelector("progress");
  bar.value = job.progress.fraction;
  bar.hidden = ENDED.has(job.status);
  bar.setAttribute("aria-label", `Progress of ${what}`);
  const cancel = item.querySelector(".cancel");
  cancel.hidden = ENDED.has(job.status);
  cancel.disabled = job.cancel_requested;
  cancel.setAttribute("aria-label", `Cancel ${what}, ${job.id}`);
  showLinks(job, item);
  return item;
}

async function refresh() {
  const found = [];
  let page = { next: null };
  do {
    const after = page.next ? `&after=${page.next}` : "";
    page = await api(`/v1/jobs?limit=${Math.min(200, shown - found.length)}${after}`);
    found.push(...page.items);
  } while (page.next && found.length < shown);
  const list = $("jobs");
  const wanted = found.map(show);
  wanted.forEach((item, at) => {
    if (list.children[at] !== item) list.insertBefore(item, list.children[at] || null);
  });
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  $("none").hidden = found.length > 0;
  $("more").hidden = !page.next;
}

// Who the key is, and what may be taken; told only where there are keys.
async function showLimits() {
  if (!storedKey()) return;
  const found = await api("/v1/limits");
  const of = (used, allowed, say) => (allowed === null ? say(used) : `${say(used)} of ${say(allowed)}`);
  const { stored_bytes: stored, queued_jobs: queued } = found;
  $("who").textContent = `${found.owner}: ${of(queued.used, queued.allowed, String)} jobs queued, `
    + `${of(stored.used, stored.allowed, bytes)} stored`;
  $("who").hidden = false;
}

async function poll() {
  try {
    if (!document.hidden && !locked) {
      await refresh();
      await showLimits();
    }
    $("away").hidden = true;
  } catch {
    $("away").hidden = locked;
  }
  setTimeout(poll, POLL_MS);
}

// What one key saw is not for the next.
document.addEventListener("zsq:locked", () => {
  for (const map of [items, downloads, results]) map.clear();
  $("jobs").replaceChildren();
  $("who").hidden = true;
  architectures = null;
  say("");
});
document.addEventListener("zsq:unlocked", () => { refresh().then(showLimits).catch(() => {}); });

function say(text) { $("said").textContent = text; }

// XMLHttpRequest, since fetch tells nothing of how much has been sent.
function send(form, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/quantize");
    const key = storedKey();
    for (const [name, value] of Object.entries(withKey({}, key))) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onSent(event.loaded / event.total));
    request.addEventListener("error", () => reject(new Error("The server closed the connection.")));
    request.addEventListener("load", () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* not ours: a proxy's page */ }
      if (request.status === 401) lock(key);
      if (request.status < 300) resolve(body);
      else reject(new Error(body.detail || `The server answered ${request.status}.`));
    });
    request.send(form);
  });
}

$("quantize").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  const form = new FormData(event.target);
  if (!$("dataset").files.length) form.delete("dataset");
  for (const name of ["input_shape", "mean", "std", "num_classes", "classes"]) {
    if (!form.get(name).trim()) form.delete(name);
  }
  button.disabled = true;
  $("sent").hidden = false;
  say("Uploading…");
  try {
    const job = await send(form, (share) => { $("sent").value = share; });
    say(`Accepted: ${job.id}`);
    await refresh();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
    $("sent").hidden = true;
  }
});

$("more").addEventListener("click", () => { shown += 20; refresh().catch(() => {}); });

// There are more than a thousand architectures: asked for once the field is used, offered as far as they
// contain what was typed, the shortest names first.
const OFFERED = 50;
let architectures = null;

async function offerArchitectures() {
  architectures ??= api("/v1/architectures").then((page) => page.items.map((each) => each.name));
  const typed = $("architecture").value.trim().toLowerCase();
  const found = (await architectures).filter((name) => name.includes(typed));
  const length = (name) => name.length - name.indexOf("/");
  if (typed) found.sort((one, other) => length(one) - length(other));
  $("architectures").replaceChildren(...found.slice(0, OFFERED).map((name) => new Option(name)));
}

for (const event of ["focus", "input"]) {
  $("architecture").addEventListener(event, () => {
    offerArchitectures().catch(() => { architectures = null; }); // the next use tries again
  });
}
poll();
