"use strict";

(() => {
  const say = (text) => {
    const toast = document.createElement("p");
    toast.className = "toast";
    toast.textContent = text;
    document.getElementById("toasts").append(toast);
    setTimeout(() => toast.remove(), 8000);
  };

  /* Copying. On plain http outside localhost there is no clipboard API. */
  const copyText = async (text) => {
    if (navigator.clipboard) {
      return navigator.clipboard.writeText(text);
    }
    const area = document.createElement("textarea");
    area.value = text;
    const host = document.querySelector("dialog:modal") || document.body;
    host.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (!isCopied) {
      throw new Error("not copied");
    }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) {
      return;
    }
    const label = button.querySelector("span");
    try {
      await copyText(button.dataset.copy);
      say("Copied");
      button.closest("dialog")?.removeAttribute("data-guard");
      if (label) {
        const before = label.textContent;
        label.textContent = "Copied";
        setTimeout(() => { label.textContent = before; }, 2000);
      }
    } catch {
      say("Copying did not work here. Select the text and copy it by hand.");
    }
  });

  /* Dialogs. One that guards a secret stays open until the secret was copied or its reader insists. */
  const guard = (dialog) => {
    if (!dialog.dataset.guard) {
      return false;
    }
    const warning = dialog.querySelector("[data-warning]");
    if (!warning || !warning.hidden) {
      return false;
    }
    warning.hidden = false;
    warning.querySelector("button, a")?.focus();
    return true;
  };

  const openDialog = (dialog) => {
    dialog.removeAttribute("open");
    dialog.showModal();
    dialog.querySelector("[data-first]")?.focus();
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      if (guard(dialog)) {
        return;
      }
      const done = dialog.querySelector("a[data-done]");
      if (done) {
        location.assign(done.href);
      } else {
        dialog.close();
      }
    });
    dialog.addEventListener("click", (event) => {
      if (event.target.closest("a[data-done]") && guard(dialog)) {
        event.preventDefault();
      }
    });
  };

  /* Times of the last day are counted on. */
  const relative = new Intl.RelativeTimeFormat(document.documentElement.lang);
  const span = (seconds) => {
    const size = Math.floor(Math.abs(seconds));
    const [unit, length] = size < 60 ? ["second", 1] : size < 3600 ? ["minute", 60] : ["hour", 3600];
    return relative.format(Math.floor(size / length) * (seconds < 0 ? 1 : -1), unit);
  };

  const countOn = () => {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
      if (Math.abs(seconds) < 86400) {
        time.textContent = span(seconds);
      }
    }
  };

  /* Charts: what a bar says, for pointer and keyboard. */
  const tip = document.createElement("p");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");

  const showTip = (event) => {
    const bucket = event.target.closest?.("[data-tip]");
    if (!bucket) {
      tip.hidden = true;
      return;
    }
    tip.textContent = bucket.dataset.tip;
    tip.hidden = false;
    const box = bucket.getBoundingClientRect();
    const left = box.left + box.width / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 6)}px`;
  };

  /* The search across the platform, by its link or by Ctrl K and ⌘K; without scripts the link opens its page. */
  const openSearch = (event) => {
    const dialog = document.getElementById("search-all");
    const isKey = event.key === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey;
    const isLink = event.type === "click" && !event.ctrlKey && !event.metaKey && event.target.closest("[data-search]");
    if (!dialog || !(isKey || isLink) || document.querySelector("dialog:modal")) {
      return;
    }
    event.preventDefault();
    dialog.showModal();
    dialog.querySelector("input").select();
  };

  /* Shortcuts, never while something is typed; an account can switch them off. */
  let isGoing = false;

  const shortcut = (event) => {
    const isTyping = event.target.closest("input, select, textarea, [contenteditable]");
    if (document.body.dataset.shortcuts !== "on" || isTyping || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    if (document.querySelector("dialog:modal")) {
      return;
    }
    const target = isGoing && document.querySelector(`[data-shortcut="${CSS.escape(event.key)}"]`);
    if (target) {
      location.assign(target.href);
    } else if (event.key === "?") {
      document.getElementById("shortcuts")?.showModal();
    } else if (event.key === "/") {
      const search = document.querySelector('[role="search"] input:not([type="hidden"])');
      if (search) {
        event.preventDefault();
        search.focus();
      }
    }
    isGoing = event.key === "g";
  };

  /* Forms are sent once; coming back to the page makes them usable again. */
  const holdButtons = (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.method !== "post") {
      return;
    }
    setTimeout(() => {
      for (const button of form.querySelectorAll("button")) {
        button.disabled = true;
        button.dataset.held = "";
      }
    });
  };

  const releaseButtons = () => {
    for (const button of document.querySelectorAll("[data-held]")) {
      button.disabled = false;
      delete button.dataset.held;
    }
  };

  /* Dates take precedence over a named range, so choosing one of the two clears the other. */
  const matchRange = (event) => {
    const { form, name, value } = event.target;
    const range = form?.querySelector('.filters select[name="range"]');
    if (name === "range" && range && value !== "custom") {
      for (const date of form.querySelectorAll('input[type="date"]')) {
        date.value = "";
      }
    } else if (event.target.type === "date" && range && value) {
      range.value = "custom";
    }
  };

  /* Filters apply when they change, without empty ones in the address; the changed one keeps the focus. */
  let applying;

  const applyFilters = (event) => {
    const { form, id, type, value } = event.target;
    const isTypingYear = type === "date" && value && value < "1900";
    if (!form?.matches("[data-auto]") || isTypingYear) {
      return;
    }
    clearTimeout(applying);
    applying = setTimeout(() => {
      sessionStorage.setItem("focus", id);
      form.requestSubmit();
    }, type === "date" ? 800 : 250);
  };

  const dropEmpty = (event) => {
    if (event.target.matches("[data-auto]")) {
      clearTimeout(applying);
      for (const [name, value] of [...event.formData]) {
        if (!value) {
          event.formData.delete(name);
        }
      }
    }
  };

  const restoreFocus = () => {
    const id = sessionStorage.getItem("focus");
    sessionStorage.removeItem("focus");
    document.getElementById(id)?.focus({ preventScroll: true });
  };

  const pickAll = ({ target }) => {
    if (target.matches("[data-pick-all]")) {
      for (const box of target.closest("table").querySelectorAll(".pick input")) {
        box.checked = target.checked;
      }
    }
  };

  const closeMenus = (event) => {
    for (const menu of document.querySelectorAll(".dropdown[open]")) {
      if (event.key === "Escape") {
        menu.querySelector("summary").focus();
      }
      menu.open = event.type === "click" ? menu.contains(event.target) : event.key !== "Escape";
    }
  };

  /* What the server cannot know. */
  const fillIn = (root) => {
    for (const field of root.querySelectorAll("input[data-zone]")) {
      field.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
    }
    for (const button of root.querySelectorAll("[data-copy][hidden]")) {
      button.hidden = false;
    }
    for (const dialog of root.querySelectorAll("dialog[open][data-modal]:not(:modal)")) {
      openDialog(dialog);
    }
    root.querySelector("[data-focus]")?.focus();
  };

  /* Parts of pages that poll. One that could not be updated says so, and asks less often until it can. */
  const MAX_AGE = 900000, MAX_PAUSE = 60000;
  const opened = Date.now();
  const polls = new WeakMap();
  const isPoll = (event) => event.detail.elt.hasAttribute("data-poll");

  const pollOf = (part) => {
    if (!polls.has(part)) {
      polls.set(part, { updated: new Date(), failures: 0, next: 0 });
    }
    return polls.get(part);
  };

  const showStale = (part, advice) => {
    const note = part.querySelector(":scope > .stale") || document.createElement("p");
    const text = `Not updated since ${pollOf(part).updated.toLocaleTimeString(document.documentElement.lang)}. ${advice}`;
    if (note.textContent !== text) {
      note.className = "stale";
      note.setAttribute("role", "status");
      note.textContent = text;
      part.prepend(note);
    }
  };

  const pollFailed = (part) => {
    const poll = pollOf(part);
    poll.failures += 1;
    poll.next = Date.now() + Math.min(1000 * 2 ** poll.failures, MAX_PAUSE);
    showStale(part, "Retrying…");
  };

  const skipsPoll = (part) => {
    if (Date.now() - opened > MAX_AGE) {
      showStale(part, "Reload the page to update it.");
      return true;
    }
    return document.hidden || Date.now() < pollOf(part).next;
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(tip);
    fillIn(document);
    restoreFocus();
    countOn();
    setInterval(countOn, 30000);
  });
  document.addEventListener("submit", holdButtons);
  for (const handle of [matchRange, applyFilters, pickAll]) {
    document.addEventListener("change", handle);
  }
  document.addEventListener("formdata", dropEmpty);
  document.addEventListener("click", closeMenus);
  addEventListener("keydown", closeMenus);
  addEventListener("pageshow", releaseButtons);
  addEventListener("keydown", shortcut);
  addEventListener("keydown", openSearch);
  document.addEventListener("click", openSearch);
  for (const kind of ["pointerover", "focusin"]) {
    document.addEventListener(kind, showTip);
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  document.addEventListener("htmx:load", ({ detail: { elt } }) => {
    if (elt !== document.body) {
      fillIn(elt);
    }
    for (const part of [elt, ...elt.querySelectorAll("[data-poll]")]) {
      pollOf(part);
    }
  });
  document.addEventListener("htmx:configRequest", (event) => {
    if (isPoll(event)) {
      event.detail.headers["X-Poll"] = "1";
    }
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isPoll(event) && skipsPoll(event.detail.elt)) {
      event.preventDefault();
    }
  });
  document.addEventListener("htmx:afterRequest", ({ detail: { elt, xhr } }) => {
    if (elt.hasAttribute("data-poll") && xhr.status === 204) {
      showStale(elt, "Sign in again to update it.");
    }
  });
  const failed = {
    "htmx:responseError": ({ xhr }) => xhr.responseText.slice(0, 300) || "That did not work. Reload the page and try again.",
    "htmx:sendError": () => "The server cannot be reached. Nothing was changed.",
    "htmx:timeout": () => "The server does not answer. Reload the page and try again.",
  };
  for (const [kind, explain] of Object.entries(failed)) {
    document.addEventListener(kind, (event) => {
      if (isPoll(event)) {
        pollFailed(event.detail.elt);
      } else {
        say(explain(event.detail));
      }
    });
  }
})();
