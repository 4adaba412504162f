"""What is measured: prompts, folders of images, their file formats, and the images that policies draw."""
