// An API whose calls the platform checks, limits and bills; README.md has the commands.
import express from "express";
import { Client } from "saas-api-client";
import { metered } from "saas-api-client/express";

const platform = new Client({
  baseUrl: process.env.PLATFORM_URL ?? "http://localhost:8080",
  token: process.env.SERVICE_TOKEN,
});
const COUNTRIES = { "+1": "US", "+234": "NG", "+44": "GB", "+49": "DE" };

function lookUp(number) {
  const code = Object.keys(COUNTRIES).find((start) => number.startsWith(start));
  return { number, country: code ? COUNTRIES[code] : null };
}

// Before the check, so that a request that cannot be answered costs nothing.
function requireNumbers(request, response, next) {
  const numbers = request.body?.numbers;
  if (Array.isArray(numbers) && numbers.length && numbers.every((number) => typeof number === "string")) return next();
  const error = {
    code: "VALIDATION_ERROR",
    message: "numbers is a list of one or more telephone numbers.",
    details: {},
  };
  response.status(422).json({ success: false, error });
}

const read = metered(platform, { permission: "lookups:read", meter: "lookups" });
const write = metered(platform, {
  permission: "lookups:write",
  meter: "lookups",
  quantity: (request) => request.body.numbers.length,
});

const app = express();
app.get("/v1/lookups/:number", read, (request, response) => {
  response.json({ success: true, data: lookUp(request.params.number) });
});
app.post("/v1/lookups", express.json(), requireNumbers, write, (request, response) => {
  response.json({ success: true, data: { lookups: request.body.numbers.map(lookUp) } });
});
app.listen(process.env.PORT ?? 3000, () => console.log("listening"));
