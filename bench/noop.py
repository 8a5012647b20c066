"""A Flask application whose view does nothing but read and write JSON: the bound of every ratio."""

from flask import Flask, Response, jsonify, request

app = Flask("noop")


@app.post("/")
def answer() -> Response:
    """Answer with what was sent."""
    return jsonify(request.get_json())


@app.get("/healthz")
def health() -> Response:
    """Answer that the process serves."""
    return jsonify({})
