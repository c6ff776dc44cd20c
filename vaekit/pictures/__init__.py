"""Pictures: grids of images and animations of them."""
