// The API key of this tab: asked for when the server wants one, kept until the tab closes, sent with every call.
"use strict";

const KEY = "zsq.key";
let locked = false; // the server wants a key, and this tab has none that is good

function storedKey() { return sessionStorage.getItem(KEY); }

function withKey(headers, key = storedKey()) {
  return key ? { ...headers, Authorization: `Bearer ${key}` } : { ...headers };
}

// fetch, with the key; a refusal asks for another one.
async function call(path, options = {}) {
  const key = storedKey();
  const response = await fetch(path, { ...options, headers: withKey(options.headers, key) });
  if (response.status === 401) lock(key);
  return response;
}

// `refused` is the key that the server did not take: an answer to an earlier key says nothing of the current one.
function lock(refused) {
  if (refused !== storedKey()) return;
  sessionStorage.removeItem(KEY);
  const first = !locked;
  locked = true;
  showLock(refused ? "The server does not take this key. It may be mistyped, expired or revoked." : "");
  if (first) document.dispatchEvent(new Event("zsq:locked"));
}

function showLock(complaint) {
  document.getElementById("unlock").hidden = !locked;
  document.getElementById("main").hidden = locked;
  document.getElementById("forget").hidden = locked || !storedKey();
  const wrong = document.getElementById("wrong-key");
  wrong.textContent = complaint;
  wrong.hidden = !complaint;
  if (locked) document.getElementById("key").focus();
  else document.getElementById("who").hidden = true;
}

async function tryKey(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) return showLock("A key has no blanks and no such letters. Was it copied whole?");
  let response;
  try {
    response = await fetch("/v1/limits", { headers: withKey({}, key) });
  } catch {
    return showLock("The server does not answer. Try again.");
  }
  if (response.status === 401) {
    return showLock("The server does not take this key. It may be mistyped, expired or revoked.");
  }
  if (response.status === 429) {
    return showLock(`Too many tries. Wait ${response.headers.get("Retry-After")} s.`);
  }
  sessionStorage.setItem(KEY, key);
  locked = false;
  showLock("");
  document.dispatchEvent(new Event("zsq:unlocked"));
}

// Links carry no key: with one, the file comes by fetch and is handed over from memory.
async function save(href, name) {
  const response = await call(href);
  if (!response.ok) throw new Error(`${name}: the server answered ${response.status}.`);
  const url = URL.createObjectURL(await response.blob());
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

document.addEventListener("DOMContentLoaded", () => {
  showLock("");
  document.getElementById("unlock").addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = document.getElementById("key");
    await tryKey(field.value.trim());
    if (!locked) field.value = "";
  });
  document.getElementById("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    lock(null);
  });
});
