"""The `fareclass` command. Each module here adds its commands to the program in `register`."""
