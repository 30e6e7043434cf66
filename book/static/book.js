// Formulas, folded sections that links lead into, and a search that works from a file.
"use strict";

// The search fetches a summary of each result, which browsers refuse to do for files.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details");
  if (!folded) return;
  for (let part = folded; part; part = part.parentElement.closest("details")) part.open = true;
  target.scrollIntoView();
}

function letScrollersTakeFocus() {
  for (const box of document.querySelectorAll(".table-wrapper, .sig, .katex-display"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}

// Furo's menus of the narrow layout are labels of hidden checkboxes: for the mouse only.
function letMenusTakeKeys() {
  for (const menu of document.querySelectorAll(".nav-overlay-icon, .toc-overlay-icon")) {
    menu.tabIndex = 0;
    menu.setAttribute("role", "button");
    menu.setAttribute("aria-label", document.getElementById(menu.htmlFor).ariaLabel);
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      menu.click();
    });
  }
}

function start() {
  if (window.renderMathInElement)
    renderMathInElement(document.body, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
    });
  letScrollersTakeFocus();
  letMenusTakeKeys();
  unfold();
}

addEventListener("hashchange", unfold);
addEventListener("load", unfold); // once more, when all pictures have their height
addEventListener("resize", letScrollersTakeFocus);
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
else start();
