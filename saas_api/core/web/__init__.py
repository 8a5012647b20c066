"""HTTP: the application, views of the API, forms, pages, errors, templates and charts."""
