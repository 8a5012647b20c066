"use strict";

/* The language that a reader chooses for one sample is that of all, here and on the next page. */
(() => {
  const NAME = "docs-language";
  const choose = (language) => {
    for (const input of document.querySelectorAll(".languages input")) {
      input.checked = input.value === language || (input.checked && !input.parentElement.querySelector(`[value="${language}"]`));
    }
  };
  const isKnown = (language) => /^[a-z]+$/.test(language || "");

  document.addEventListener("change", (event) => {
    if (event.target.closest(".languages")) {
      const top = event.target.getBoundingClientRect().top;
      choose(event.target.value);
      scrollBy(0, event.target.getBoundingClientRect().top - top);
      localStorage.setItem(NAME, event.target.value);
    }
  });

  const stored = localStorage.getItem(NAME);
  if (isKnown(stored)) {
    choose(stored);
  }
})();
