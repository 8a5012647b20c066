"use strict";

const KEY = "api-key";

/* Keeps the API key of this tab, so that every document of the reference is authorized with it. */
const keepKey = () => ({
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (authorize) => (payload) => {
          for (const { schema, value } of Object.values(payload)) {
            const type = schema && (schema.get ? schema.get("type") : schema.type);
            if (type === "apiKey" && typeof value === "string") sessionStorage.setItem(KEY, value);
          }
          return authorize(payload);
        },
        logout: (logout) => (payload) => {
          sessionStorage.removeItem(KEY);
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
  onComplete: () => {
    const key = sessionStorage.getItem(KEY);
    const components = ui.specSelectors.specJson().get("components");
    const schemes = key && components && components.get("securitySchemes");
    if (schemes) schemes.filter((scheme) => scheme.get("type") === "apiKey").forEach((_, name) => ui.preauthorizeApiKey(name, key));
  },
});
