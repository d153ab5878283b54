"""A client of exec-servers."""
