// The loss history of a finished job: one small curve a loss, as SVG.
"use strict";

const CURVE = { width: 200, height: 48 };

// [{iteration, <loss>: number, null where it was not finite, …}, …] -> [{name, path, first, last, low, high}, …];
// `path` fills the box of CURVE, from the first iteration to the last and from the lowest value to the highest.
function traces(losses) {
  const names = new Set(losses.flatMap(Object.keys));
  names.delete("iteration");
  return [...names].map((name) => trace(name, losses)).filter((found) => found !== null);
}

function trace(name, losses) {
  const told = losses.filter((entry) => name in entry);
  const values = told.map((entry) => entry[name]).filter((value) => value !== null);
  if (!values.length) return null;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const begin = losses[0].iteration;
  const end = losses.at(-1).iteration;
  const place = (value, from, to, size) => (to === from ? size / 2 : size * (value - from) / (to - from));
  let path = "";
  let drawing = false;
  for (const entry of told) {
    const value = entry[name];
    if (value !== null) {
      const x = place(entry.iteration, begin, end, CURVE.width).toFixed(1);
      const y = (CURVE.height - place(value, low, high, CURVE.height)).toFixed(1);
      path += drawing ? `L${x} ${y}` : `M${x} ${y}h0`; // h0: a value between two gaps is a dot
    }
    drawing = value !== null;
  }
  return { name, path, first: values[0], last: values.at(-1), low, high };
}

function curve({ name, path, first, last, low, high }) {
  const say = (value) => value.toPrecision(3);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${CURVE.width} ${CURVE.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const range = `${name}: lowest ${say(low)}, highest ${say(high)}`;
  svg.setAttribute("aria-label", range);
  const line = svg.appendChild(document.createElementNS(svg.namespaceURI, "path"));
  line.setAttribute("d", path);
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = `${name} ${say(first)} → ${say(last)}`;
  figure.title = range;
  figure.append(svg, caption);
  return figure;
}

// Shows the curves in a job's list item; jobs whose method trains nothing have none.
function showCurves(item, losses) {
  const details = item.querySelector(".losses");
  details.hidden = !losses.length;
  if (!losses.length) return;
  const span = `iterations ${losses[0].iteration} to ${losses.at(-1).iteration}`;
  details.querySelector("summary").textContent = `Losses, ${span}, each from its lowest to its highest`;
  details.querySelector(".curves").replaceChildren(...traces(losses).map(curve));
}
