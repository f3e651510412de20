"""What connects policies to other libraries: one module for each, none imported before you import it."""
