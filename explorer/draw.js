"use strict";
// What the page draws with: elements, colours, the attention map as a table, and its exports.

const SVG = "http://www.w3.org/2000/svg";
// Cividis: the same brightness scale for all kinds of colour vision.
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [166, 157, 117], [195, 182, 105], [225, 204, 85], [254, 232, 56],
];

/** @typedef {{kind: string, layer: number, head: number | "mean", rows: string[], cols: string[],
 *   value: (i: number, j: number) => number, allowed: (i: number, j: number) => boolean,
 *   title: string, description: string}} MapView one attention map with its labels */

/** @template {keyof HTMLElementTagNameMap} K @param {K} tag
 * @param {{[name: string]: unknown}} [attributes] null and false are left out
 * @param {...(Node | string)} children @returns {HTMLElementTagNameMap[K]} */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, /** @type {EventListener} */ (value));
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/** The element with this id. @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @template {HTMLElement} T @param {string} id @param {new () => T} kind @returns {T} */
function control(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`#${id} is missing`);
  return found;
}

/** @param {number} value from 0 to 1 @returns {number[]} red, green, blue */
function cividis(value) {
  const place = Math.max(0, Math.min(1, value)) * (CIVIDIS.length - 1);
  const i = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return CIVIDIS[i].map((from, c) => Math.round(from + (place - i) * (CIVIDIS[i + 1][c] - from)));
}

/** Black or white, whichever reads better on a colour of the scale. @param {number} value */
function ink(value) {
  return value > 0.48 ? "#000" : "#fff";
}

/** "87 %", or "< 1 %". @param {number} share */
function percent(share) {
  return share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`;
}

/** The words for one cell. @param {MapView} map @param {number} i @param {number} j */
function cellText(map, i, j) {
  const [query, key] = [`“${map.rows[i]}” (query ${i})`, `“${map.cols[j]}” (key ${j})`];
  if (!map.allowed(i, j)) return `${query} may not attend to ${key}: it is masked`;
  return `${query} gives ${percent(map.value(i, j))} of its attention to ${key}`;
}

/** The map as a table for mouse, keyboard and screen reader: arrow keys walk, Enter chooses.
 * @param {MapView} map @param {[number, number]} chosen
 * @param {(i: number, j: number) => void} choose @param {(text: string) => void} say */
function mapTable(map, chosen, choose, say) {
  /** @type {HTMLTableCellElement[][]} */
  const cells = [];
  const [atRow, atCol] = [Math.min(chosen[0], map.rows.length - 1), Math.min(chosen[1], map.cols.length - 1)];
  const walk = (/** @type {KeyboardEvent} */ event, /** @type {number} */ i, /** @type {number} */ j) => {
    const [lastRow, lastCol] = [map.rows.length - 1, map.cols.length - 1];
    /** @type {{[key: string]: [number, number]}} */
    const moves = {
      ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], ArrowLeft: [i, j - 1], ArrowRight: [i, j + 1],
      Home: [event.ctrlKey ? 0 : i, 0], End: [event.ctrlKey ? lastRow : i, lastCol],
      PageUp: [0, j], PageDown: [lastRow, j],
    };
    if (event.key === "Enter" || event.key === " ") choose(i, j);
    else if (moves[event.key]) {
      const [row, col] = moves[event.key];
      const next = cells[row]?.[col];
      if (next) {
        cells[i][j].tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
    } else return;
    event.preventDefault();
  };
  const head = element("tr", {}, element("td"));
  map.cols.forEach((token) => head.append(element("th", { scope: "col" }, element("span", {}, token))));
  const table = element("table", { class: "map", role: "grid", "aria-label": map.title, style: map.cols.length > 14 ? "--cell: 1.6rem" : null }, element("thead", {}, head));
  const body = element("tbody");
  map.rows.forEach((token, i) => {
    const row = element("tr", {}, element("th", { scope: "row" }, token));
    cells[i] = map.cols.map((_, j) => {
      const value = map.value(i, j);
      const masked = !map.allowed(i, j);
      const number = masked || value < 0.005 ? "" : String(Math.round(100 * value));
      const cell = element("td", {
        tabindex: i === atRow && j === atCol ? 0 : -1,
        class: masked ? "masked" : null,
        style: masked ? null : `background: rgb(${cividis(value)}); color: ${ink(value)}`,
        "aria-label": cellText(map, i, j),
        "aria-selected": String(i === chosen[0] && j === chosen[1]),
        click: () => choose(i, j),
        keydown: (/** @type {KeyboardEvent} */ event) => walk(event, i, j),
        mouseenter: () => say(cellText(map, i, j)),
        focus: () => say(cellText(map, i, j)),
      }, number);
      row.append(cell);
      return cell;
    });
    body.append(row);
  });
  table.append(body);
  return table;
}

/** A small picture of a map, a pixel per cell. @param {MapView} map */
function thumbnail(map) {
  const canvas = element("canvas", { width: map.cols.length, height: map.rows.length });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, canvas.height);
  map.rows.forEach((_, i) => map.cols.forEach((_, j) => {
    image.data.set([...cividis(map.allowed(i, j) ? map.value(i, j) : 0), 255], 4 * (i * canvas.width + j));
  }));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** @param {string} text */
function escapeXml(text) {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** The map as an SVG file, with its description inside. @param {MapView} map */
function mapSvg(map) {
  const size = 30;
  const longest = (/** @type {string[]} */ tokens) => Math.max(...tokens.map((t) => t.length));
  const [left, top] = [20 + 8.5 * longest(map.rows), 46 + 8.5 * longest(map.cols)];
  const [width, height] = [Math.max(left + size * map.cols.length + 12, 420), top + size * map.rows.length + 12];
  const parts = map.cols.map((token, j) => {
    const [x, y] = [left + size * (j + 0.6), top - 6];
    return `<text x="${x}" y="${y}" transform="rotate(-90 ${x} ${y})">${escapeXml(token)}</text>`;
  });
  map.rows.forEach((token, i) => {
    const y = top + size * i;
    parts.push(`<text x="${left - 6}" y="${y + 20}" text-anchor="end">${escapeXml(token)}</text>`);
    map.cols.forEach((_, j) => {
      const [value, ok] = [map.value(i, j), map.allowed(i, j)];
      const place = `x="${left + size * j}" y="${y}" width="${size - 1}" height="${size - 1}"`;
      parts.push(`<rect ${place} fill="${ok ? `rgb(${cividis(value)})` : "#ddd"}"/>`);
      if (ok && value >= 0.005) {
        const middle = `x="${left + size * (j + 0.5)}" y="${y + 19}" text-anchor="middle"`;
        parts.push(`<text ${middle} font-size="11" fill="${ink(value)}">${Math.round(100 * value)}</text>`);
      }
    });
  });
  return (
    `<svg xmlns="${SVG}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" font-family="sans-serif" font-size="13">` +
    `<title>${escapeXml(map.title)}</title><desc>${escapeXml(map.description)}</desc>` +
    `<rect width="100%" height="100%" fill="#fff"/><text x="12" y="22" font-weight="bold">${escapeXml(map.title)}</text>` +
    `${parts.join("")}</svg>\n`
  );
}

/** The numbers of a map: a row per query; masked cells are empty. @param {MapView} map */
function mapCsv(map) {
  const quote = (/** @type {string} */ text) => {
    const plain = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formula in a spreadsheet
    return `"${plain.replaceAll('"', '""')}"`;
  };
  const lines = map.rows.map((token, i) =>
    [quote(token), ...map.cols.map((_, j) => (map.allowed(i, j) ? map.value(i, j) : ""))].join(","),
  );
  return `${[quote("query \\ key"), ...map.cols.map(quote)].join(",")}\n${lines.join("\n")}\n`;
}

/** Hand the reader a file. @param {string} name @param {Blob} blob */
function download(name, blob) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** An SVG picture as PNG, twice as large. @param {string} svg @returns {Promise<Blob>} */
async function toPng(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = element("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/png");
  });
}
