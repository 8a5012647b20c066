"use strict";

/* Swagger UI is dark by a class of its own; it follows the reader's theme, and the system's where none is chosen. */
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme === "dark" || (root.dataset.theme === "system" && prefersDark.matches);
  root.classList.toggle("dark-mode", isDark);
};
prefersDark.addEventListener("change", setTheme);
setTheme();

/* The API key that was typed on this page. It stays in memory, and every document of the reference gets it. */
let apiKey = null;

const isApiKey = (scheme) => Boolean(scheme) && (scheme.get ? scheme.get("type") : scheme.type) === "apiKey";

const keepKey = () => ({
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (authorize) => (payload) => {
          const given = Object.values(payload).find(({ schema, value }) => isApiKey(schema) && typeof value === "string");
          if (given) apiKey = given.value;
          return authorize(payload);
        },
        logout: (logout) => (payload) => {
          apiKey = null;
          return logout(payload);
        },
      },
    },
  },
});

const ui = SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.url,
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [keepKey],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null,
  queryConfigEnabled: false,
});

const authorizeDocument = () => {
  const schemes = apiKey && ui.specSelectors.specJson().getIn(["components", "securitySchemes"]);
  if (!schemes) return;
  schemes.forEach((scheme, name) => {
    if (isApiKey(scheme) && !ui.authSelectors.authorized().has(name)) ui.preauthorizeApiKey(name, apiKey);
  });
};
ui.getStore().subscribe(authorizeDocument);

/* Another document replaces the one that is shown, because a page of its own would forget the key. */
const links = document.querySelectorAll(".documents a");
const show = (link) => {
  links.forEach((other) => other.toggleAttribute("aria-current", false));
  link.setAttribute("aria-current", "page");
  ui.specActions.updateUrl(link.dataset.url);
  ui.specActions.download(link.dataset.url);
};
links.forEach((link) =>
  link.addEventListener("click", (event) => {
    event.preventDefault();
    history.pushState(null, "", link.href);
    show(link);
  }),
);
addEventListener("popstate", () => {
  const link = [...links].find(({ pathname }) => pathname === location.pathname);
  if (link) show(link);
});
