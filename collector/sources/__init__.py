"""One file, one source. Only these files touch a driver, /proc or /sys."""
