"""What of the pages is made of cogvid itself: quoted code, and the references."""
