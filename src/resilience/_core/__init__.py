"""Pure parts that several machines share. Nothing here asks for the time, waits or locks."""
