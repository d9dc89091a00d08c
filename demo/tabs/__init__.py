"""One module for each tab of the page: its layout, its events, and what happens on them."""
