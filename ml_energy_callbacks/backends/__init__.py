"""Every kind of hardware that can be read, one file each, and the search for what this machine has."""
