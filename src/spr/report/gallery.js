// Filters of the gallery and keys to move through it. The state stands in the address
// (#outcome=became%20wrong&objects=1), so that a view can be shared.
"use strict";
(() => {
  const cards = [...document.querySelectorAll(".gallery .card")];
  const form = document.querySelector(".filters");
  const dialog = document.querySelector("dialog");
  if (!form || !dialog) return;
  const buttons = [...form.querySelectorAll("button")];
  const state = () => new URLSearchParams(location.hash.slice(1));
  const shown = () => cards.filter((card) => !card.hidden);

  function apply() {
    const wanted = state();
    for (const card of cards)
      card.hidden = [...wanted].some(([name, value]) => name in card.dataset && card.dataset[name] !== value);
    for (const b of buttons)
      b.setAttribute("aria-pressed", String((wanted.get(b.dataset.filter) ?? "") === b.dataset.value));
    form.querySelector("output").textContent = `${shown().length} of ${cards.length} shown.`;
  }

  form.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const wanted = state();
    if (button.dataset.value) wanted.set(button.dataset.filter, button.dataset.value);
    else wanted.delete(button.dataset.filter);
    history.replaceState(null, "", `#${wanted}`);
    apply();
  });

  function enlarge(card) {
    dialog.replaceChildren(...[...card.children].map((child) => child.cloneNode(true)));
    if (!dialog.open) dialog.showModal();
  }

  function move(step) {
    const visible = shown();
    const at = visible.indexOf(document.activeElement);
    const current = dialog.open ? visible.indexOf(dialog.card) : at;
    const next = visible[current < 0 ? 0 : Math.min(visible.length - 1, Math.max(0, current + step))];
    if (!next) return;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    if (dialog.open) open(next);
  }

  function open(card) {
    dialog.card = card;
    enlarge(card);
  }

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("form")) return;
    const inGallery = dialog.open || cards.includes(document.activeElement);
    const steps = {
      j: 1,
      k: -1,
      ...(inGallery ? { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 } : {}),
    };
    if (event.key in steps) {
      event.preventDefault();
      move(steps[event.key]);
    } else if (event.key === "Enter" && cards.includes(document.activeElement) && !dialog.open) {
      event.preventDefault();
      open(document.activeElement);
    }
  });
  for (const card of cards) card.addEventListener("click", () => getSelection().isCollapsed && open(card));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.card?.focus());
  addEventListener("hashchange", apply);
  form.hidden = false;
  apply();
})();
