"""The bundled family's corpus: open emoji art as sprites, the words people have for it, and scenes made of both."""
