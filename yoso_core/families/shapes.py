"""The shapes of pictures that a network was trained on, where those are a list."""

MEGAPIXEL = "ASPECT_RATIO_1024_BIN"  # as diffusers calls the list of about 1024 x 1024 pixels


def nearest(shapes: str | None, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the shape in diffusers' list of this name whose sides are most nearly in this proportion.

    Args:
        shapes: name of the list; None for any shape.
        size: width and height in pixels.
    """
    if shapes is None:
        return size
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha  # seconds to import

    bins, (width, height) = getattr(pipeline_pixart_alpha, shapes), size
    high, wide = bins[min(bins, key=lambda ratio: abs(float(ratio) - height / width))]
    return int(wide), int(high)
