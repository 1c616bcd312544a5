"""Tables, plots and the HTML page, made from what run folders hold."""
