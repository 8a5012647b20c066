"""The API's reference: written from what `@endpoint` recorded, so that it cannot drift from the code."""
